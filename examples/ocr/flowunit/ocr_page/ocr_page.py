"""Brings a picture to the sizes that detection wants: not too large, not too flat, sides in multiples of 32."""

import _flowunit as modelbox
import cv2

STEP = 32  # the detector halves the picture five times


class OcrPage(modelbox.FlowUnit):
    def open(self, config):
        self.min_side = config.get_int("min_side", 30)
        self.max_side = config.get_int("max_side", 2000)
        self.min_height = config.get_int("min_height", 30)
        self.max_ratio = config.get_int("max_ratio", 8)
        self.detect_side = config.get_int("detect_side", 736)
        self.max_pixels = config.get_int("max_pixels", 12_000_000)
        return modelbox.Status()

    def process(self, data_context):
        """in_image: uint8 [h, w, 3]. out_page: the page that lines are cut from, with what leads back to the picture as
        meta; out_image: the page as the detector gets it."""
        pages, images = data_context.output("out_page"), data_context.output("out_image")
        for buffer in data_context.input("in_image"):
            picture = buffer.numpy()
            page, top = self.framed(self.bounded(picture))
            width, height = self.detect_size(page)
            if width * height > self.max_pixels:
                for port in (pages, images):
                    refused = modelbox.Buffer(self.get_bind_device(), "")
                    text = f"a picture of {picture.shape[1]} x {picture.shape[0]} is too long for its other side"
                    refused.set_error("OcrPage.TooLong", text)
                    port.push_back(refused)
                continue
            images.push_back(self.image(cv2.resize(page, (width, height))))
            made = buffer if page is picture else self.image(page)
            made.set("picture", [picture.shape[1], picture.shape[0]])
            # from pixels of the page to those of the picture: (x * ratio_x, (y - top) * ratio_y)
            made.set("top", top)
            made.set("ratio", [picture.shape[1] / page.shape[1], picture.shape[0] / (page.shape[0] - 2 * top)])
            pages.push_back(made)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def image(self, array):
        """A buffer that native image units take, too."""
        buffer = modelbox.Buffer(self.get_bind_device(), array)
        height, width, channels = array.shape
        for key, value in {"width": width, "height": height, "channel": channels}.items():
            buffer.set(key, value)
        buffer.set("width_stride", width * channels)
        buffer.set("height_stride", height)
        buffer.set("pix_fmt", "bgr")
        buffer.set("layout", "hwc")
        return buffer

    def bounded(self, picture):
        """The picture, scaled when a side is longer than max_side or shorter than min_side."""
        height, width = picture.shape[:2]
        if max(height, width) > self.max_side:
            ratio = self.max_side / max(height, width)
        elif min(height, width) < self.min_side:
            ratio = self.min_side / min(height, width)
        else:
            return picture
        return cv2.resize(picture, (in_steps(int(width * ratio)), in_steps(int(height * ratio))))

    def framed(self, page):
        """A flat or low page with a black band above and below, since the detector misses lines that fill it; and the
        height of a band."""
        height, width = page.shape[:2]
        if height > self.min_height and width / height <= self.max_ratio:
            return page, 0
        band = abs(2 * max(width // self.max_ratio, self.min_height) - height) // 2
        return cv2.copyMakeBorder(page, band, band, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0)), band

    def detect_size(self, page):
        height, width = page.shape[:2]
        ratio = max(1.0, self.detect_side / min(height, width))
        return in_steps(int(width * ratio)), in_steps(int(height * ratio))

    def close(self):
        return modelbox.Status()


def in_steps(side):
    """The nearest multiple of STEP, at least one."""
    return max(STEP, round(side / STEP) * STEP)
