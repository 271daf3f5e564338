"""modelbox: what authors of flow units import.

`import _flowunit as modelbox`, as ModelBox units write it, gives the same names inside worker processes.
"""

from modelbox.buffer import Buffer, BufferList
from modelbox.configuration import Configuration
from modelbox.context import DataContext, DataMeta, FlowUnitError, FlowUnitEvent
from modelbox.device import Device
from modelbox.dtypes import ModelBoxDataType
from modelbox.flowunit import ExternalData, FlowUnit
from modelbox.log import Log, debug, error, fatal, info, notice, set_log_level, warn
from modelbox.session import SessionContext
from modelbox.status import Status, StatusCode
from modelbox.version import VERSION

__version__ = VERSION

__all__ = [
    "Buffer",
    "BufferList",
    "Configuration",
    "DataContext",
    "DataMeta",
    "Device",
    "ExternalData",
    "FlowUnit",
    "FlowUnitError",
    "FlowUnitEvent",
    "Log",
    "ModelBoxDataType",
    "SessionContext",
    "Status",
    "StatusCode",
    "__version__",
    "debug",
    "error",
    "fatal",
    "info",
    "notice",
    "set_log_level",
    "warn",
]
