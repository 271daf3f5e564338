"""Unit TOML files: what they mean, what is wrong with them and on which line, and how units are looked up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbox.configuration import Configuration
from modelbox.errors import DriverError, UnitNotFoundError
from modelbox.spec import FlowType, UnitKind, UnitSpec
from modelboxd.drivers.registry import Registry
from modelboxd.drivers.unit_toml import read_unit
from tests.unit.drivers.test_registry import TOML, library, scan

MODEL = """[base]
name = "model"
type = "inference"
virtual_type = "onnx"
device = "cuda"
version = "1.0.0"
description = "text"
entry = "deep/net.onnx"
[input.input1]
name = "image"
type = "float"
[output.output1]
name = "boxes"
"""


def read(folder: Path, text: str, name: str = "py.toml") -> UnitSpec:
    (folder / name).write_text(text)
    unit = read_unit(folder / name, builtin_dir=folder / "builtin")
    assert unit is not None
    return unit


def fails(folder: Path, text: str) -> str:
    with pytest.raises(DriverError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def with_base(*lines: str) -> str:
    return TOML.replace("[config]", "\n".join(lines) + "\n[config]")


# ---- what a file means -------------------------------------------------------------------------------------


def test_defaults_of_a_python_unit(tmp_path: Path) -> None:
    unit = read(tmp_path, TOML)
    assert (unit.kind, unit.entry, unit.group, unit.device) == (UnitKind.PYTHON, "py@Py", "Generic", "cpu")
    assert unit.flow_type is FlowType.STREAM  # where the key is missing
    assert (unit.condition, unit.expand, unit.collapse, unit.collapse_all, unit.exception_visible) == (
        False, False, False, True, False,
    )  # fmt: skip
    assert (unit.default_batch_size, unit.max_batch_size, unit.open_options) == (0, 0, True)
    assert unit.path == str(tmp_path / "py.toml")


@pytest.mark.parametrize("word", ["true", '"true"', '"True"', "1", '"1"'])
def test_flags_in_all_forms(tmp_path: Path, word: str) -> None:
    unit = read(tmp_path, with_base(f"condition = {word}", "stream = false", 'max_batch_size = "4"'))
    assert (unit.condition, unit.flow_type, unit.max_batch_size) == (True, FlowType.NORMAL, 4)


@pytest.mark.parametrize(
    ("lines", "role", "flow_type"),
    [
        (("loop = true",), "loop", FlowType.NORMAL),
        (("loop = true", "stream = true"), "loop", FlowType.NORMAL),
        (("condition = true", "loop = true"), "condition", FlowType.NORMAL),
        (("expand = true", "condition = true"), "expand", FlowType.STREAM),
        (("expand = true", "stream = false", "loop = true"), "expand", FlowType.NORMAL),
        (("collapse = true", "condition = true", "stream = false"), "collapse", FlowType.NORMAL),
    ],
)
def test_kinds(tmp_path: Path, lines: tuple[str, ...], role: str, flow_type: FlowType) -> None:
    unit = read(tmp_path, with_base(*lines))
    assert (unit.role, unit.flow_type) == (role, flow_type)


def test_expand_and_collapse_at_once(tmp_path: Path) -> None:
    assert fails(tmp_path, with_base("expand = true", "collapse = true")) == (
        "py.toml:9: base.expand and base.collapse are both true (a unit does one or the other)"
    )


def test_an_inference_unit_is_normal_whatever_it_says(tmp_path: Path) -> None:
    unit = read(tmp_path, MODEL.replace("description", "stream = true\ndescription"))
    assert (unit.kind, unit.flow_type, unit.virtual_type) == (UnitKind.INFERENCE, FlowType.NORMAL, "onnx")
    assert unit.entry == str(tmp_path / "deep/net.onnx")
    assert unit.inputs[0].device == "cuda"


def test_nodes_of_models_take_thread_counts(tmp_path: Path) -> None:
    names = ["intra_op_num_threads", "inter_op_num_threads"]
    assert [option.name for option in read(tmp_path, MODEL).options] == names
    own = MODEL + "[options.intra_op_num_threads]\ndefault = 3\n"
    assert {option.name: option.default for option in read(tmp_path, own).options} == {names[0]: "3", names[1]: "0"}


def test_configuration_is_text(tmp_path: Path) -> None:
    text = TOML.replace('list = [1, "a"]', 'list = [1, true]\nflag = false\nnumber = 0.5\nword = "x y"')
    assert read(tmp_path, text).config == {"list": "1,true", "flag": "false", "number": "0.5", "word": "x y"}


@pytest.mark.parametrize("group", ["Image", "Image/Resize", "X1"])
def test_groups(tmp_path: Path, group: str) -> None:
    assert read(tmp_path, with_base(f'group_type = "{group}"')).group == group


@pytest.mark.parametrize("group", ["image", "A/B/C", "A b", "9"])
def test_a_group_of_the_wrong_form_is_a_warning(tmp_path: Path, group: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, with_base(f'group_type = "{group}"')).group == "Generic"
    assert f"py.toml:8: base.group_type = '{group}' is not of the form Group/Sub" in caplog.text


def test_one_side_may_be_missing(tmp_path: Path) -> None:
    unit = read(tmp_path, TOML.split("[output]")[0])
    assert (len(unit.inputs), unit.outputs) == (1, ())


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "py.toml").write_bytes(b"\xef\xbb\xbf" + TOML.replace("\n", "\r\n").encode())
    assert scan(tmp_path).find("py").entry == "py@Py"


# ---- what is wrong, and where -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["name", "device", "version", "description", "entry"])
def test_required_keys(tmp_path: Path, key: str) -> None:
    lines = [line for line in TOML.split("\n") if not line.startswith(f"{key} = ") or line == 'name = "in"']
    message = fails(tmp_path, "\n".join(lines).replace('name = "out"', 'name = "out"'))
    assert message.startswith(f"py.toml: base.{key} is missing (add {key} = ")


def test_a_missing_entry_shows_the_form(tmp_path: Path) -> None:
    message = fails(tmp_path, TOML.replace('entry = "py@Py"\n', ""))
    assert message == 'py.toml: base.entry is missing (add entry = "module@Class" to [base])'
    assert fails(tmp_path, MODEL.replace('virtual_type = "onnx"\n', "")).endswith(
        '(add virtual_type = "onnx" to [base])'
    )


@pytest.mark.parametrize("entry", ["py", "py@", "@Py", "py@Py.x", "py@P y", " @ "])
def test_entries_of_the_wrong_form(tmp_path: Path, entry: str) -> None:
    message = fails(tmp_path, TOML.replace("py@Py", entry))
    assert message.startswith(f"py.toml:7: base.entry = {entry.strip()!r} is not of the form module@Class (module is")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("description", 'stream = "maybe"\ndescription', "py.toml:6: base.stream = 'maybe' is not true or false"),
        ("description", "max_batch_size = -1\ndescription", "py.toml:6: base.max_batch_size = -1 is no whole number"),
        ('"1.0.0"', '"1.0"', "py.toml:5: base.version = '1.0' is not of the form 1.0.0"),
        ("[input.input1]", "[input.input2]", "input.input1 is not found (ports count from 1 without gaps; there is: input2)"),
        ('name = "in"', "nme = 1", "py.toml:11: input.input1.name is missing"),
        ("[output.output1]", "[input.input2]\nname = 'in'\n[output.output1]", "py.toml:15: input port 'in' is there twice"),
        ("[input]", "[options]\nx = 1\n[input]", "options.x must be a table (such as x = {type = \"int\"})"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert text in fails(tmp_path, TOML.replace(old, new, 1))


def test_keys_are_looked_for_in_their_section(tmp_path: Path) -> None:
    """A key with the same name in an earlier section is not the one that is wrong."""
    base, ports = TOML.split("[config]")
    ports = ports.replace('list = [1, "a"]\n', "")
    text = "[meta]\nversion = 1\n" + ports.replace('type = "uint8"\n', "") + base.replace('"1.0.0"', '"x"')
    line = text.split("\n").index('version = "x"') + 1
    assert f"py.toml:{line}: base.version = 'x'" in fails(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('type = "pyton"', "py.toml:3: base.type = 'pyton' is not known (did you mean 'python'?)"),
        ('type = ["python"]', "base.type = ['python'] is not known"),
        ("", 'py.toml: base.type is missing (such as type = "python")'),
    ],
)
def test_a_type_that_is_wrong_is_told(tmp_path: Path, line: str, text: str) -> None:
    assert text in fails(tmp_path, TOML.replace('type = "python"', line, 1))


@pytest.mark.parametrize(
    "text",
    [
        "", '[graph]\nformat = "graphviz"\n', "[base]\n", 'base = 5\n', '[base]\nname = "x"\ntype = "other"\n',
        TOML.replace('"python"', '"java"'), TOML.replace('"python"', '"c++"'),
    ],
)  # fmt: skip
def test_other_files_are_passed_over_in_silence(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    registry = scan(tmp_path)
    assert (registry.units, registry.problems) == ([], [])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[base]\nname = 'caf\xe9'\n", "py.toml: is not UTF-8 text (byte 18)"),
        (b"a = " + b"[" * 100_000, "py.toml: is nested too deep"),
        (b"[base]\nname = \n", "py.toml:2:8: Invalid value"),
    ],
)
def test_broken_files_stop_nothing(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "py.toml").write_bytes(data)
    registry = scan(tmp_path)
    assert [unit.name for unit in registry.units] == ["py"]
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in registry.problems] == [text]


_VALUES = st.sampled_from(
    [
        "",
        "5",
        "-1",
        "true",
        '"x"',
        '"1.0.0"',
        '"cpu"',
        '"a@B"',
        "[]",
        "[1]",
        "{}",
        "{name = 1}",
        "1.5",
        "1979-05-27",
        '"\\u0000"',
    ]
)
_KEYS = st.sampled_from(
    ["base.name", "base.device", "base.version", "base.description", "base.entry", "base.virtual_type", "base.stream",
     "base.group_type", "base.max_batch_size", "input", "input.input1", "input.input1.name", "output.output1.name",
     "config", "config.x", "options", "options.x", "options.x.values", "options.x.default"]
)  # fmt: skip


@given(
    kind=st.sampled_from(["python", "inference", "yolo_postprocess", "builtin"]),
    lines=st.dictionaries(_KEYS, _VALUES, max_size=14),
)
def test_no_file_does_more_than_fail(
    kind: str, lines: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    text = f'base.type = "{kind}"\n' + "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / "x.toml").write_text(text)
    error = ""
    try:
        unit = read_unit(folder / "x.toml", builtin_dir=folder)
    except DriverError as caught:
        error = str(caught)
    if error:
        assert error.startswith(str(folder / "x.toml"))
        assert "\n" not in error
    else:
        assert unit is not None
        hash(unit)


# ---- looking units up ---------------------------------------------------------------------------------------


def places(tmp_path: Path, **files: str) -> Registry:
    for name, text in files.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "unit.toml").write_text(text)
    registry = Registry([tmp_path / name for name in files], builtin_dir=tmp_path / "none", cache_file=None)
    registry.scan()
    return registry


def test_auto_is_any_device(tmp_path: Path) -> None:
    registry = places(tmp_path, a=TOML)
    for device in ("", "auto", " ; ", "cuda;auto;cpu", "cuda:0,1;cpu:0", "cpu"):
        assert registry.find("py", device).device == "cpu"


def test_the_first_place_wins_whatever_the_kind(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    library(tmp_path / "b", "modelbox_py.so", name="py")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/py.toml").write_text(TOML)
    registry = Registry([tmp_path / "a", tmp_path / "b"], builtin_dir=tmp_path / "none", cache_file=None)
    registry.scan()
    assert registry.find("py").kind is UnitKind.PYTHON
    assert "modelbox_py.so is hidden by" in str(registry.problems[0])


def test_one_file_found_twice_is_not_hidden_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/py.toml").write_text(TOML)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    every = [tmp_path / "a", tmp_path / "a/b", tmp_path / "link", tmp_path / "a/../a"]
    registry = Registry(every, builtin_dir=tmp_path / "none", cache_file=None)
    registry.scan()
    assert (len(registry.units), registry.problems) == (1, [])


def test_what_exists_is_told(tmp_path: Path) -> None:
    registry = places(tmp_path, a=TOML)
    for name, device, version, text in (
        ("py", "cuda", "", "can not find flowunit [type: cuda, name: py] (it exists for: cpu 1.0.0; check 'device')"),
        ("py", "", "2.0.0", "[type: any, name: py, version: 2.0.0] (it exists for: cpu 1.0.0"),
        ("pyy", "cpu", "", f"(did you mean py? searched: {tmp_path / 'a'}; check driver.dir)"),
        ("zzz", "cpu", "", f"(searched: {tmp_path / 'a'}; check driver.dir)"),
    ):
        with pytest.raises(UnitNotFoundError) as caught:
            registry.find(name, device, version)
        assert text in str(caught.value)


def test_a_file_that_cannot_be_used_is_told_where_its_unit_is_asked_for(tmp_path: Path) -> None:
    broken = TOML.replace('entry = "py@Py"', "entry =").replace('name = "py"', 'name = "wanted"  # so')
    registry = places(tmp_path, a=broken, b=TOML)
    with pytest.raises(UnitNotFoundError, match=r"failed\. can not find .*a/unit\.toml:7:8: Invalid value"):
        registry.find("wanted")  # by the name in the text: the file is called unit.toml
    with pytest.raises(UnitNotFoundError) as caught:
        registry.find("other")
    assert "Invalid value" not in str(caught.value)


def test_a_second_copy_is_no_reason(tmp_path: Path) -> None:
    registry = places(tmp_path, py=TOML, b=TOML)
    assert len(registry.problems) == 1
    with pytest.raises(UnitNotFoundError) as caught:
        registry.find("py", "cuda")
    assert "hidden" not in str(caught.value)
    assert "it exists for: cpu 1.0.0" in str(caught.value)


def test_a_misspelt_key_of_base_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, with_base("steam = false")).flow_type is FlowType.STREAM
    assert "py.toml:8: base.steam is not known (did you mean 'stream'?)" in caplog.text
    caplog.clear()
    read(tmp_path, with_base('vendor = "x"'))
    assert not caplog.text


def test_tables_and_lists_with_commas_in_config(tmp_path: Path) -> None:
    lines = [
        'labels = ["traffic light, red", "car"]',
        'one = ["a, b"]',
        "none = []",
        'sub = {a = 1, deep = {b = ["x", "y"]}}',
    ]
    config = Configuration(read(tmp_path, TOML.replace("[config]", "\n".join(["[config]", *lines]))).config)
    assert config.get_string_list("labels") == ["traffic light, red", "car"]
    assert config.get_string("labels") == "traffic light, red,car"
    assert config.get_string_list("one") == ["a, b"]
    assert (config.get_int("sub.a"), config.get_string_list("sub.deep.b")) == (1, ["x", "y"])
    assert "sub" not in config


def test_life_of_workers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unit = read(tmp_path, with_base('workers = "auto"', "process_timeout_ms = 500", 'restart = "never"'))
    assert unit.life == {"workers": -1, "process_timeout_ms": 500, "restart": "never"}
    assert not caplog.records
    assert fails(tmp_path, with_base("max_requests = -1")) == (
        f"py.toml:{with_base('').count(chr(10), 0, with_base('').index('[config]'))}: base.max_requests = -1 is out of "
        "range (a whole number from 0 to 2147483648)"
    )
    assert "never, on-failure or always" in fails(tmp_path, with_base('restart = "yes"'))
    read(tmp_path, with_base("memory_limit = 5"))
    assert "base.memory_limit is not known (did you mean 'memory_limit_mb'?)" in caplog.text
    read(tmp_path, TOML.replace("[config]", "[config]\nmax_requests = 5"))
    assert "config.max_requests is an option of the unit's own code" in caplog.text
    caplog.clear()
    read(tmp_path, MODEL.replace("[input", "workers = 2\n[input", 1))
    assert "base.workers has no meaning here, it is ignored (it is for Python units)" in caplog.text
