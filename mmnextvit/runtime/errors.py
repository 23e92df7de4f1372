"""What the runtime raises where a file, an image or an option is at fault."""


class DetectorError(ValueError):
    """What this module raises where a file, an image or an option is at fault."""


class ImageError(DetectorError):
    """An image that is missing, empty, truncated, or no image at all."""


class ModelFileError(DetectorError):
    """A file that is damaged, of a newer format, or not from ``mmnextvit export``."""


class MissingModelError(ModelFileError, FileNotFoundError):
    """A file or folder that does not exist, or lacks a part."""


class OptionError(DetectorError):
    """A device or a size that the file or the machine does not have."""
