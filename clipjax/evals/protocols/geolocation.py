"""Geolocation: the place of a photograph is that of the most similar one (paper, appendix E.6).

IM2GPS: 237 photographs are compared with a million references in CLIP's image space, and the share
within 1, 25, 200, 750 and 2,500 km of the truth is reported (table 17). Country211 is a zero-shot
set like any other.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from clipjax.common.counts import counted
from clipjax.common.exits import DataError
from clipjax.evals import metrics, nearest
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.evals.suites.set_data import Missing

WITHIN_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
EARTH_KM = 6371.0088  # mean radius
IM2GPS = {  # paper, table 17: share of 237 photographs within so many kilometres
    "CLIP (paper)": {1: 0.139, 25: 0.329, 200: 0.43, 750: 0.62, 2500: 0.793},
    "ISNs": {1: 0.169, 25: 0.43, 200: 0.519, 750: 0.667, 2500: 0.802},
    "PlaNet": {1: 0.084, 25: 0.245, 200: 0.376, 750: 0.536, 2500: 0.713},
}


def places(
    query_embed: np.ndarray,
    *,
    reference_embed: np.ndarray,
    reference_degrees: np.ndarray,
    mesh: Mesh,
) -> np.ndarray:
    """float64 [Q, 2], latitude and longitude of each query's nearest reference.

    Args:
      query_embed: float32 [Q, E], L2-normalised; where it is no number, so is the place.
      reference_embed: float32 [N, E], L2-normalised.
      reference_degrees: float [N, 2], latitude and longitude.
      mesh: references are split over its batch axes.
    """
    search = nearest.Nearest(query_embed, count=1, mesh=mesh)
    search.add(reference_embed)
    index = search.index[:, 0]
    degrees = np.asarray(reference_degrees, np.float64)[np.maximum(index, 0)]
    return np.where(index[:, None] >= 0, degrees, np.nan)


def distances_km(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """float64 [N]: along the earth's surface, between degrees [N, 2] (haversine formula)."""
    a, b = np.radians(np.asarray(here, np.float64)), np.radians(np.asarray(there, np.float64))
    half = np.sin((b - a) / 2) ** 2
    inside = half[:, 0] + np.cos(a[:, 0]) * np.cos(b[:, 0]) * half[:, 1]
    return 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(inside, 0, 1)))


def shares_within(
    distances: np.ndarray, *, kilometres: Sequence[float] = WITHIN_KM
) -> dict[str, Estimate]:
    """{"within_25_km": share of queries, …}; a distance that is no number is not within any."""
    return {
        f"within_{kilometre:g}_km": metrics.share(
            int(np.sum(distances <= kilometre)), len(distances)
        )
        for kilometre in kilometres
    }


def read_degrees(file: Any, *, keys: Sequence[str]) -> np.ndarray:
    """Latitudes and longitudes of images, float64 [N, 2], in the order of `keys`.

    Args:
      file: CSV with the columns `image` (a key), `latitude` and `longitude`, in degrees.
      keys: of the images, such as their paths in the folder.

    Raises:
      DataError: it cannot be read, an image has no line, or a place is not on earth.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(epath.Path(file).read_text())))
        known = {
            line["image"]: (float(line["latitude"]), float(line["longitude"])) for line in lines
        }
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{file}: write a CSV with a header image,latitude,longitude; degrees as numbers"
        ) from None
    missing = [key for key in keys if key not in known]
    if missing:
        raise DataError(
            f"{file}: has no place for {counted(len(missing), 'image')}, such as {missing[0]}"
        )
    for key in keys:
        latitude, longitude = known[key]
        if not (math.fabs(latitude) <= 90 and math.fabs(longitude) <= 180):
            raise DataError(f"{file}: {key} is at latitude {latitude}, longitude {longitude}")
    return np.array([known[key] for key in keys], np.float64).reshape(-1, 2)


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The references."""
    try:
        return {"references": evaluated.open_train().source.fingerprint}
    except Missing:
        return {"references": ""}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """The place of the nearest reference, the training split; places of both in `places.csv`."""
    file, train = evaluated.file("places.csv"), evaluated.open_train()
    truth = read_degrees(file, keys=evaluated.keys)
    references = read_degrees(file, keys=[train.source.key(index) for index in range(train.n)])
    nearest_places = places(
        evaluated.image_embed,
        reference_embed=evaluated.images(train.source),
        reference_degrees=references,
        mesh=evaluated.model.mesh,
    )
    distances = distances_km(nearest_places, truth)
    known = distances[np.isfinite(distances)]
    details = {"references": train.n, "median_km": float(np.median(known)) if len(known) else None}
    return Measurement(
        "within_25_km", shares_within(distances), details, arrays={"distance_km": distances}
    )


PROTOCOL = Protocol(measure, settings)
