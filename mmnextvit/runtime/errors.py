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


class SourceError(DetectorError):
    """A list of images that cannot be used, or a folder without any.

    Args:
        problem: What is wrong and how to mend it.
        file: The list that it stands in.
        line: The line in it, from 1.
    """

    def __init__(self, problem: str, file: str = '', line: int | None = None) -> None:
        place = f'{file}:{line}' if line is not None else file
        super().__init__(f'{place}: {problem}' if place else problem)
        self.problem, self.file, self.line = problem, file, line
