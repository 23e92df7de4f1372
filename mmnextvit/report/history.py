"""What a run has logged, from its first start to its last, as one history."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Record = Mapping[str, float]

# What a record says of itself, beside what was measured.
PLACES = ('epoch', 'iter', 'step')
# What is measured of the machine, not of the model.
COSTS = ('time', 'data_time', 'memory')


@dataclass(frozen=True)
class History:
    """The curves of a run, with the numbers of resumed starts in one line.

    Where a run went on from an earlier checkpoint, what was logged behind that belongs
    to weights that no longer exist, and is left out.

    Attributes:
        train: Records of training, by rising ``iter``.
        validation: Records of validations, by rising ``step``: of epochs where the run
            counts epochs, else of iterations.
        by_epoch: Whether the run counts epochs.
        epoch_length: Iterations of an epoch; 1 where the run counts iterations.
        restarts: The places, as :meth:`place_train` gives them, where it was resumed.
    """

    train: Sequence[Record] = ()
    validation: Sequence[Record] = ()
    by_epoch: bool = True
    epoch_length: int = 1
    restarts: Sequence[float] = ()

    def place_train(self, record: Record) -> float:
        """Where a record of training stands: epochs, or iterations, that are done."""
        return record['iter'] / self.epoch_length

    def trace(self, name: str, validation: bool = False) -> tuple[list, list]:
        """The places and values of a curve, where it has any.

        Args:
            name: Key of the records.
            validation: Whether it is a number of the validations.
        """
        records = self.validation if validation else self.train
        found = [record for record in records if name in record]
        places = [r['step'] if validation else self.place_train(r) for r in found]
        return places, [record[name] for record in found]

    def list_names(self, validation: bool = False) -> list[str]:
        """What was measured, in the order in which it appears first."""
        records = self.validation if validation else self.train
        names = dict.fromkeys(name for record in records for name in record)
        return [name for name in names if name not in PLACES]


def read_history(folder: Path) -> History:
    """The history of a run, of all starts that logged into its folder.

    Args:
        folder: Of the run. MMEngine makes a folder in it for each start, called by the
            time, in which ``vis_data/scalars.json`` has a JSON object a line.
    """
    return join_starts(map(read_records, _list_logs(folder)))


def has_logs(folder: Path) -> bool:
    """Whether a training has logged into a folder."""
    return bool(_list_logs(folder))


def _list_logs(folder: Path) -> list[Path]:
    return sorted(folder.glob('*/vis_data/scalars.json'))


def read_records(file: Path) -> list[Record]:
    """The records of a start. A line that was not written to its end is left out."""
    return list(_parse(file.read_text(encoding='utf-8', errors='replace').splitlines()))


def _parse(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield {
                name: float(value)
                for name, value in content.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }


def join_starts(starts: Iterable[Sequence[Record]]) -> History:
    """Joins what several starts of a run have logged.

    Args:
        starts: The records of each, the first one first. Those of training have an
            ``iter``; those of validations have a ``step`` alone, and follow the
            training that they validate.
    """
    placed: list[tuple[float, Record]] = []  # with the iteration after which it came
    begins: list[float] = []
    for records in starts:
        trained = [record['iter'] for record in records if 'iter' in record]
        if trained:
            placed = [(place, r) for place, r in placed if place < trained[0]]
            if placed:
                begins.append(trained[0])
        # What resumes in a validation validates what was trained before.
        place = placed[-1][0] if placed else 0.0
        for record in records:
            place = record.get('iter', place)
            if 'iter' in record or 'step' in record:
                placed.append((place, record))
    train = [record for _, record in placed if 'iter' in record]
    by_epoch = any('epoch' in record for record in train) or not train
    # An epoch e of n iterations has those from (e - 1) n + 1 to e n, and not all of
    # them are logged: the last ones say most.
    lengths = [r['iter'] / r['epoch'] for r in train if r.get('epoch', 0) > 0]
    length = max(1, math.ceil(max(lengths, default=1) - 1e-9)) if by_epoch else 1
    validations = {r['step']: r for _, r in placed if 'iter' not in r}
    return History(
        train,
        [validations[step] for step in sorted(validations)],
        by_epoch,
        length,
        [begin / length for begin in begins if train and begin <= train[-1]['iter']],
    )


def is_loss(name: str) -> bool:
    """Whether a key of a record is a loss."""
    return name.rpartition('/')[2].startswith('loss') or name.endswith('_loss')


def is_rate(name: str) -> bool:
    """Whether a key of a record is a learning rate."""
    return name.rpartition('/')[2] in ('lr', 'base_lr') or name.endswith('/lr')


def list_metrics(history: History) -> list[str]:
    """The measures of the validations, such as ``coco/bbox_mAP``."""
    return [
        name
        for name in history.list_names(validation=True)
        if not is_loss(name) and name not in COSTS
    ]
