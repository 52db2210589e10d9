"""k-Same and k-Same-Eigen: what is published is the average of k faces, so that a recogniser cannot do better than 1/k.

Newton, Sweeney, Malin, "Preserving privacy by de-identifying face images", IEEE TKDE 17(2), 2005. The proof holds for one image per
person. With several images per person two more things are needed, and `unit=subjects` does both: persons are grouped, not images,
and the *same* persons stand together on the enrol and the probe side of a role. Whether the result keeps the promise is checked on
what is really released, for either unit; see `KSame.guarantee`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, State
from raysweep.errors import TrialError
from raysweep.search.parameters import Categorical, Int, Parameter

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, ByteArray, FaceBatch, IntArray

__all__ = ["GuaranteeWarning", "KSame", "greedy_groups"]

CLUSTER_SIZE = 28
"""Faces are compared at this side: it decides only who stands together, not what is published."""
MAX_COMPONENTS = 128
MAX_BASIS_FACES = 512
MIN_BASIS_FACES = 16
CHUNK = 256

FloatMatrix = npt.NDArray[np.float64]


class GuaranteeWarning(UserWarning):
    """What k-Same released does not keep the 1/k bound."""


def greedy_groups(features: FloatMatrix, k: int) -> IntArray:
    """Newton's greedy grouping: take the first face left, add the k - 1 nearest ones left, repeat; the remainder joins the last group.

    Args:
        features: (N, D), compared by Euclidean distance; ties go to the earlier row.
        k: smallest group, 2 or more and at most N.

    Returns:
        (N,) group of each row, 0, 1, ...; every group has at least k rows and fewer than 2k.

    Raises:
        ValueError: fewer than k rows.

    >>> greedy_groups(np.array([[0.0], [9.0], [1.0], [8.0], [7.0]]), k=2).tolist()
    [0, 1, 0, 1, 1]
    """
    if len(features) < k:
        raise ValueError(f"{len(features)} rows cannot form a group of {k}")
    group = np.full(len(features), -1, dtype=np.int64)
    left = np.arange(len(features))
    number = 0
    while len(left) >= 2 * k:
        distance = np.square(features[left] - features[left[0]]).sum(axis=1)
        distance[0] = -1.0
        nearest = np.argsort(distance, kind="stable")[:k]
        group[left[nearest]] = number
        left = np.delete(left, nearest)
        number += 1
    group[left] = number
    return group


@dataclass(frozen=True)
class _Release:
    """One release with its rows in an order that does not depend on how they came."""

    name: str
    faces: AlignedFaces
    identity: IntArray

    @property
    def role(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_enrol(self) -> bool:
        return self.name.endswith("/enrol")


class KSame(Anonymizer):
    """Groups of at least k faces or persons of one release, each replaced by the group's average.

    Faces are compared at 28 x 28 pixels (area mean), or in the principal components of those. `space=eigen` publishes the
    average's reconstruction from at most 128 principal components; they are learned from role G when it has at least 16 faces, else from
    the release itself. In `unit=subjects` each person counts once in the average, however many photographs there are.

    Attributes:
        guarantee: after `load`: `k`, `distinct_subjects_min` (fewest persons behind one released image; -1 when not known), `holds` (every
            released image of a person is tied to the same k or more persons), `guarantee` (`holds` or `violated`), `reason`.
    """

    name = "k-same"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "k": Int(2, 50, 5, log=True, unit="faces or persons", why="a recogniser is right with probability 1/k at best"),
        "unit": Categorical(
            ("subjects", "images"), "subjects", why="images is the published algorithm: 1/k fails when persons repeat"
        ),
        "space": Categorical(("pixel", "eigen"), "pixel", why="averages of pixels, or of principal components"),
    }
    releases = "group"
    reference = "Newton, Sweeney, Malin, IEEE TKDE 17(2), 2005"

    def fit(self, context: FitContext) -> State:
        """Group the faces of each release and average them.

        Returns:
            `image` (M, 3, S, S) uint8, one per group; `key` (N,) int64 sorted hashes of the face ids; `group` (N,) int64 row of
            `image`; `salt` (1,); `guarantee` (4,) int64: k, fewest distinct persons, holds, reason.

        Raises:
            TrialError: no release, or one with fewer than k faces or persons; persons not known in `unit=subjects`.
        """
        k, by_subject = int(self.setting["k"]), self.setting["unit"] == "subjects"
        releases = [
            _Release(name, faces, faces.table.identity)
            for name, faces in sorted(context.releases.items())
            if len(faces)
        ]
        _check_releases(releases, k, by_subject)
        images: list[torch.Tensor] = []
        groups: list[IntArray] = []
        features = _features(releases, context.background, self.setting["space"] == "eigen")
        averages = self._averager(context.background)
        roles = sorted({release.role for release in releases})
        ordered = [release for role in roles for release in releases if release.role == role]
        first_group = 0
        for role in roles:
            members = [release for release in ordered if release.role == role]
            labels = _subject_labels(members, k, features) if by_subject else {}
            for release in members:
                if by_subject:
                    group = np.array([labels[identity] for identity in release.identity.tolist()], dtype=np.int64)
                    group = np.unique(group, return_inverse=True)[1].astype(np.int64)
                else:
                    group = _image_groups(release, k, features)
                images.append(averages(release, group))
                groups.append(group + first_group)
                first_group += int(group.max()) + 1
        face_ids = [str(face) for release in ordered for face in release.faces.table.face_id]
        salt, key = _hash_all(face_ids)
        order = np.argsort(key)
        group = np.concatenate(groups)
        guarantee = _check_guarantee(ordered, groups, k)
        if not guarantee[2]:
            warnings.warn(f"k-Same: {_REASONS[int(guarantee[3])]}", GuaranteeWarning, stacklevel=2)
        return {
            "image": torch.cat(images),
            "key": torch.from_numpy(key[order]),
            "group": torch.from_numpy(group[order]),
            "salt": torch.tensor([salt], dtype=torch.int64),
            "guarantee": torch.from_numpy(guarantee),
        }

    def load(self, state: State, device: torch.device) -> None:
        """Take the averages and the index of faces."""
        self._image = state["image"].to(device)
        self._key = state["key"].cpu().numpy()
        self._group = state["group"].cpu().numpy()
        self._salt = int(state["salt"])
        k, distinct, holds, reason = state["guarantee"].tolist()
        self.guarantee: dict[str, Any] = {
            "k": k,
            "distinct_subjects_min": distinct,
            "holds": bool(holds),
            "guarantee": "holds" if holds else "violated",
            "reason": _REASONS[reason],
        }

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Look up the average of each face's group, (n, 3, S, S) uint8.

        Raises:
            TrialError: a face that was in no release when the groups were formed.
        """
        key = np.array([_hash(face, self._salt) for face in faces.face_id], dtype=np.int64)
        place = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        unknown = np.flatnonzero(self._key[place] != key)
        if len(unknown):
            raise TrialError(
                f"k-same: face {faces.face_id[unknown[0]]!r} ({len(unknown)} such) was in no release when the groups were "
                "formed; k-Same can only publish whole releases"
            )
        rows = torch.from_numpy(self._group[place]).to(self._image.device)
        return self._image[rows].to(faces.image.device)

    def _averager(self, background: AlignedFaces) -> Callable[[_Release, IntArray], torch.Tensor]:
        """A function (release, group of each row) -> (groups, 3, S, S) uint8."""
        eigen, by_subject = self.setting["space"] == "eigen", self.setting["unit"] == "subjects"
        learned = _principal(_some_pixels(background)) if eigen and len(background) >= MIN_BASIS_FACES else None

        def averages(release: _Release, group: IntArray) -> torch.Tensor:
            mean_pixels = _group_means(release.faces, group, release.identity if by_subject else np.arange(len(group)))
            if eigen:
                mean, basis = learned if learned is not None else _principal(_some_pixels(release.faces))
                mean_pixels = mean + (mean_pixels - mean) @ basis.T @ basis
            images = np.floor(np.clip(mean_pixels, 0.0, 255.0) + 0.5).astype(np.uint8)
            images = images.reshape(-1, *release.faces.crop.shape[1:]).transpose(0, 3, 1, 2)
            return torch.from_numpy(np.ascontiguousarray(images))

        return averages


_REASONS = (
    "every released image stands for k or more persons, the same ones in every image of a person",
    "some released image stands for fewer than k persons",
    "a person's images stand in different groups, so what they have in common tells who it is",
    "identities are not known, so nobody can tell how many persons stand behind an image",
)


def _check_releases(releases: list[_Release], k: int, by_subject: bool) -> None:
    """Stop when a release cannot give groups of k, naming each that cannot."""
    if not releases:
        raise TrialError("k-same: nothing to publish: it averages the faces of releases T, S and E, and there are none")
    if by_subject and any((release.identity < 0).any() for release in releases):
        raise TrialError(
            "k-same: unit=subjects needs to know who is on each face; use unit=images for faces without identity"
        )
    what = "persons" if by_subject else "faces"
    short = []
    for release in releases:
        count = len(np.unique(release.identity)) if by_subject else len(release.faces)
        if count < k:
            short.append(f"{release.name} has {count}")
    if short:
        raise TrialError(f"k-same: k = {k} needs at least {k} {what} in each release, but {', '.join(short)}; lower k")


def _subject_labels(members: list[_Release], k: int, features: Mapping[str, FloatMatrix]) -> dict[int, int]:
    """Identity -> group for one role: formed on the enrol side's means, valid on both sides."""
    base = next((release for release in members if release.is_enrol), members[0])
    identities, inverse = np.unique(base.identity, return_inverse=True)
    rows = features[base.name]
    means = np.zeros((len(identities), rows.shape[1]))
    np.add.at(means, inverse, rows)
    means /= np.bincount(inverse)[:, None]
    # The order of the greedy walk must not depend on the order of rows or on how identities are numbered.
    names = [base.faces.table.identity_names[identity] for identity in identities]
    walk = np.array(sorted(range(len(names)), key=lambda index: _hash(names[index], 0)))
    group = np.empty(len(identities), dtype=np.int64)
    group[walk] = greedy_groups(means[walk], k)
    labels = dict(zip(identities.tolist(), group.tolist(), strict=True))
    for release in members:
        missing = np.setdiff1d(release.identity, identities)
        lacking = np.setdiff1d(identities, release.identity)
        if len(missing) or len(lacking):
            raise TrialError(
                f"k-same: unit=subjects needs the same persons in {base.name} and {release.name}; "
                f"{len(missing) + len(lacking)} are on one side only"
            )
    return labels


def _image_groups(release: _Release, k: int, features: Mapping[str, FloatMatrix]) -> IntArray:
    ids = [str(face) for face in release.faces.table.face_id]
    walk = np.array(sorted(range(len(ids)), key=lambda index: _hash(ids[index], 0)))
    group = np.empty(len(ids), dtype=np.int64)
    group[walk] = greedy_groups(features[release.name][walk], k)
    return group


def _weights(group: IntArray, unit: IntArray) -> FloatMatrix:
    """(N,) weights summing to 1 in each group, equal over its units and over the images of a unit."""
    pair = np.unique(np.stack([group, unit]), axis=1, return_inverse=True)
    (pair_group, _), inverse = pair[0], pair[1].reshape(-1)
    images_of_pair = np.bincount(inverse)
    units_of_group = np.bincount(pair_group)
    weights: FloatMatrix = 1.0 / (images_of_pair[inverse] * units_of_group[group])
    return weights


def _check_guarantee(releases: list[_Release], groups: list[IntArray], k: int) -> IntArray:
    """k, fewest persons behind an image (-1 not known), holds, index into `_REASONS`: read off what is really released."""
    if any((release.identity < 0).any() for release in releases):
        return np.array([k, -1, 0, 3], dtype=np.int64)
    fewest = min(
        len(np.unique(release.identity[group == number]))
        for release, group in zip(releases, groups, strict=True)
        for number in np.unique(group)
    )
    tied: dict[tuple[str, int], set[frozenset[int]]] = {}
    for release, group in zip(releases, groups, strict=True):
        for number in np.unique(group):
            persons = frozenset(release.identity[group == number].tolist())
            for person in persons:
                tied.setdefault((release.role, person), set()).add(persons)
    if fewest < k:
        return np.array([k, fewest, 0, 1], dtype=np.int64)
    if any(len(company) > 1 for company in tied.values()):
        return np.array([k, fewest, 0, 2], dtype=np.int64)
    return np.array([k, fewest, 1, 0], dtype=np.int64)


def _hash(text: str, salt: int) -> int:
    """64 bits of a text as a signed number."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=salt.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little", signed=True)


def _hash_all(texts: list[str]) -> tuple[int, IntArray]:
    """A salt under which all texts differ, and their hashes."""
    if len(set(texts)) != len(texts):
        raise TrialError("k-same: the same face_id occurs twice in the releases; face ids must be unique in a data set")
    salt = 0
    while True:
        key = np.array([_hash(text, salt) for text in texts], dtype=np.int64)
        if len(np.unique(key)) == len(key):
            return salt, key
        salt += 1


def _chunks(count: int) -> Iterator[IntArray]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _features(releases: list[_Release], background: AlignedFaces, eigen: bool) -> dict[str, FloatMatrix]:
    """Per release (N, D), by what faces are compared."""
    small = {release.name: _small(release.faces) for release in releases}
    if not eigen:
        return small
    learned = None
    if len(background) >= MIN_BASIS_FACES:
        learned = _principal(_small(background.take(_evenly(len(background)))))
    for name, rows in small.items():
        mean, basis = learned if learned is not None else _principal(rows[_evenly(len(rows))])
        small[name] = (rows - mean) @ basis.T
    return small


def _group_means(faces: AlignedFaces, group: IntArray, unit: IntArray) -> FloatMatrix:
    """(groups, pixels) averages in which each unit of a group weighs the same."""
    weight = _weights(group, unit)
    total = np.zeros((int(group.max()) + 1, int(np.prod(faces.crop.shape[1:]))))
    for rows in _chunks(len(group)):
        np.add.at(total, group[rows], _flat(faces.crop, rows) * weight[rows, None])
    return total


def _some_pixels(faces: AlignedFaces) -> FloatMatrix:
    return _flat(faces.crop, _evenly(len(faces)))


def _evenly(count: int) -> IntArray:
    """At most `MAX_BASIS_FACES` row numbers of `count`, evenly spread: what principal components are learned from."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_BASIS_FACES)).astype(np.int64))


def _small(faces: AlignedFaces) -> FloatMatrix:
    """(N, 28 * 28 * 3) area means of the crops, the raw crop where it is smaller."""
    parts = []
    for rows in _chunks(len(faces)):
        images = torch.from_numpy(np.ascontiguousarray(np.asarray(faces.crop[rows]).transpose(0, 3, 1, 2))).double()
        if images.shape[-1] > CLUSTER_SIZE:
            images = torch.nn.functional.interpolate(images, size=(CLUSTER_SIZE, CLUSTER_SIZE), mode="area")
        parts.append(images.reshape(len(rows), -1).numpy())
    return np.concatenate(parts)


def _flat(crop: ByteArray, rows: IntArray) -> FloatMatrix:
    return crop[rows].reshape(len(rows), -1).astype(np.float64)


def _principal(rows: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """Mean (D,) and at most `MAX_COMPONENTS` orthonormal principal directions (r, D) of the rows, by the Gram matrix."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    keep = np.flatnonzero(values > values[-1] * 1e-9)[::-1][:MAX_COMPONENTS]
    basis = vectors[:, keep].T @ centred
    return mean, basis / np.linalg.norm(basis, axis=1, keepdims=True).clip(1e-12)
