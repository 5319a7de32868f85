"""What samples are held against: the features of a data set, computed once and kept."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.data.sources import Source
from drl_jax.errors import UserError
from drl_jax.evaluation.features import Features, Space
from drl_jax.evaluation.measures import Population, gather
from drl_jax.metrics.frechet import Moments
from drl_jax.parallel.devices import everywhere

_READ = 256  # examples at a time, as many as a batch may have: reading has a time limit
_VERSION = 1  # of what is kept in a file


class Reference(NamedTuple):
    """`data`: the whole data set in each space, in an order that is random and always the same. `sha256`:
    of its examples in this order, after crop and resize."""

    data: dict[str, Population]
    sha256: str

    def populations(self) -> dict[str, Population]:
        """What samples are compared with: all of the data in Inception's space, as published figures are.
        In that of the data themselves one half of what is kept of them, so that the other can show the
        least distance there is."""
        return {
            space: population if space == "inception" else population.halves[0]
            for space, population in self.data.items()
        }


def measure_data(
    source: Source, spaces: Sequence[Space], cache: epath.Path, warn: Callable[[str], None], *, fewest: int
) -> Reference:
    """Reads all examples of a source, `fewest` in each half, and features of Inception from `cache` if they
    are there.

    All processes of a job call this; the first writes to the cache, and says in a warning if it cannot.

    Raises UserError: there are too few examples, or one cannot be read.
    """
    if len(source) < 2 * fewest:
        raise UserError(
            f"config.evaluation.metrics: {len(source)} examples are too few data; {2 * fewest} are the least"
        )
    digest = hashlib.sha256()
    for part in _examples(source):
        digest.update(f"{part.dtype}{part.shape[1:]}".encode())
        digest.update(np.ascontiguousarray(part).data)
    sha256, data = digest.hexdigest(), {}
    for space in spaces:
        file = cache / f"{space.name}_{hash_of([_VERSION, sha256, space.about])}.npz"
        kept = _load(file) if space.costly else None
        # All or none: extracting is the work of all processes together.
        if not everywhere(kept is not None):
            kept = gather(space.extract(part) for part in _examples(source))
            if space.costly and jax.process_index() == 0:
                _save(file, kept, warn)
        assert kept is not None
        data[space.name] = kept
    return Reference(data, sha256)


def hash_of(parts: object) -> str:
    """A name for what values, with a `repr` that tells all, say: 12 hex digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _examples(source: Source) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(source))
    for first in range(0, len(order), _READ):
        yield source.take(order[first : first + _READ])


def _save(file: epath.Path, population: Population, warn: Callable[[str], None]) -> None:
    moments, (vectors, logits) = population.moments, population.features
    named = {"size": np.array(moments.size), "mean": moments.mean, "covariance": moments.covariance}
    named |= {"vectors": vectors} | ({} if logits is None else {"logits": logits})
    try:
        arrays.write(file, named)
    except OSError as error:
        warn(f"{file} cannot be written ({error.strerror or error}): the data will be measured again")


def _load(file: epath.Path) -> Population | None:
    named = arrays.read(file)
    if named is None:
        return None
    moments = Moments(int(named["size"]), named["mean"], named["covariance"])
    return Population(moments, Features(named["vectors"], named.get("logits")))
