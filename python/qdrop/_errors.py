"""The exceptions of the package. Their texts are those of the program."""


class Error(Exception):
    """Something that qdrop could not do. All exceptions of the package are of this class."""


class InputError(Error, ValueError):
    """An argument, a recipe, a network, its weights or images cannot be used; the text says which and what to do."""


class FileError(Error, OSError):
    """A file could not be read or written."""


class DeviceError(Error, RuntimeError):
    """The requested device cannot be used."""


class InternalError(Error, RuntimeError):
    """A computation failed, or qdrop has a defect."""
