import io

import _flowunit as modelbox
import av
import numpy as np


class Film(modelbox.FlowUnit):
    def process(self, data_context):
        for buffer in data_context.input("in_data"):
            shapes = [frame.shape for frame in decode(encode(int(buffer.as_object())))]
            made = f"{len(shapes)} frames of {shapes[0]}\n"
            data_context.output("out_data").push_back(modelbox.Buffer(self.get_bind_device(), made))
        return modelbox.Status.StatusCode.STATUS_SUCCESS


def encode(count: int) -> io.BytesIO:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(count):
            picture = np.full((96, 128, 3), number * 255 // count, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        film.mux(stream.encode(None))
    file.seek(0)
    return file


def decode(file: io.BytesIO) -> list[np.ndarray]:
    with av.open(file) as film:
        return [frame.reformat(64, 48, "bgr24").to_ndarray() for frame in film.decode(video=0)]
