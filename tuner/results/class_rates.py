"""What the class rates of judged models may be on images that no search saw: draws from their joint posterior.

A search judges all its models on the same few validation images, and shows the best of many noisy values, which are too
good to be true. Here the rates of each class are estimated together over all trials, so that a lucky trial is drawn
towards its neighbours as far as the counts of images warrant (empirical Bayes: values of a posterior need no correction
for the selection of the best, as far as the prior holds; Efron, "Tweedie's formula and selection bias", 2011).

Model of each class at row r (a trial at one position of its curve), on the variance-stabilised scale of Anscombe (1948)
z = arcsin(sqrt((right + 3/8) / (n + 3/4))), whose noise has variance 1 / (4 n + 2) whatever the rate:

    z = m + class(position) + setting(x, position) + training(trial, position) + reference(position) + noise

once for the mean of z over the classes and once for each class's deviation from it, whose scales are their own.

Each term is a Gaussian process. ``class`` is shared by all trials, ``setting`` is smooth in the setting's coordinates,
``training`` is independent from trial to trial (a seed's luck, which is real on unseen images too), ``reference`` lets
each reference lie far from the trials, else it would be drawn towards them and a gain be shrunk away. All models saw
the same images. The noise of the points of one curve is correlated as that of nested sets: an offset that raises a
class only adds to images classified right, so that corr(p, q) = sqrt(p (1 - q) / (q (1 - p))) for p <= q. A part of it,
``COMMON``, is all models': what all get wrong because of the images does not average out over trials. How large the
rest is, ``own``, is fitted like the other scales, which maximise prior times likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

# Priors of the scales: median, standard deviation of the logarithm. z moves by as much as a rate of 1/2 does; a seed of
# training moves a class by about 0.035; lengths are in units of the curve's range and of the cube's diagonal.
PRIORS = {
    "class": (0.2, 1.0),
    "setting": (0.05, 1.0),
    "training": (0.035, 0.4),
    "setting_length": (0.5, 0.5),
    "position_length": (0.7, 0.5),
    "own": (0.5, 0.7),  # of the variance of a model's noise, the part that is not other models' too
}
COMMON = 0.5  # the part that is all models': 0.53 to 0.77 measured (not 1 - own: both may be too low)
REFERENCE = 0.2  # how far, in z, a reference's classes may lie from those of the trials: hardly a constraint
WIDER = 1.4  # draws are so much wider than the posterior, whose scales are taken for known: chosen by simulation
JITTER = 1e-8  # added to variances, of about 0.01, so that rows that are equal leave a matrix positive definite
SCALE_ROWS = 96  # the scales are fitted to at most so many rows


@dataclass(frozen=True)
class Rows:
    """Counts of R rows and where they lie. ``right`` and ``count``: images of each class, (R, K), every count positive;
    ``trial``: (R,) numbers, equal for the points of one curve; ``position``: (R,) along the curve, such as tau;
    ``setting``: (R, d) in the unit cube, NaN for a row whose setting has no coordinates there; ``reference``: (R,) 0
    for the trials, else the number of the reference that a row belongs to."""

    right: np.ndarray
    count: np.ndarray
    trial: np.ndarray
    position: np.ndarray
    setting: np.ndarray
    reference: np.ndarray

    def some(self, rows: np.ndarray) -> Rows:
        """These rows, by index."""
        return Rows(*(getattr(self, f.name)[rows] for f in fields(self)))


def posterior(rows: Rows, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The class rates at the centre of their posterior, (R, K), and joint draws from it, (draws, R, K), in [0, 1]."""
    distances, rng = _Distances.of(rows), np.random.default_rng(seed)
    parts, noise = _parts(rows)
    spread = _spread(rows)
    narrow = _Distances.of(rows.some(spread))
    fitted, few = parts[:, spread], noise[:, spread[:, None], spread]
    scales = [_fit(narrow, fitted[part], few[part]) for part in (slice(0, 1), slice(1, None))]
    priors = [(distances.covariance(s), distances.likeness(s)) for s in scales]
    centre, out = np.empty_like(parts), np.empty((len(parts), draws, len(rows.trial)))
    for k, part in enumerate(parts):
        covariance, likeness = priors[min(k, 1)]
        factor = cholesky(covariance + likeness * noise[k], lower=True, check_finite=False)
        half = solve_triangular(factor, covariance, lower=True, check_finite=False)
        white = solve_triangular(factor, part - part.mean(), lower=True, check_finite=False)
        root = WIDER * _root(covariance - half.T @ half)
        centre[k] = part.mean() + white @ half
        out[k] = centre[k] + rng.standard_normal((draws, len(part))) @ root.T
    return rates_of(_joined(centre), rows.count), rates_of(_joined(out), rows.count)


def _joined(parts: np.ndarray) -> np.ndarray:
    """z, (..., R, K), of a mean and deviations, (1 + K, ..., R): the inverse of `_parts`."""
    return parts[0][..., None] + np.moveaxis(parts[1:] - parts[1:].mean(0), 0, -1)


def _parts(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """z as its mean over the classes and each class's deviation from it, (1 + K, R), and their noise, (1 + K, R, R)."""
    z = stabilised(rows.right, rows.count).T
    own = np.stack([_noise(rows, k) for k in range(len(z))])
    of_mean = own.mean(0, keepdims=True) / len(z)
    mean = z.mean(0, keepdims=True)
    return np.concatenate([mean, z - mean]), np.concatenate([of_mean, own * (1 - 2 / len(z)) + of_mean])


def stabilised(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Anscombe's transform of binomial counts."""
    return np.arcsin(np.sqrt((right + 3 / 8) / (count + 3 / 4)))


def rates_of(z: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The rates whose counts among ``count`` images transform to ``z``: the inverse of `stabilised`, within [0, 1]."""
    share = np.sin(np.clip(z, 0, math.pi / 2)) ** 2
    return np.clip((share * (count + 3 / 4) - 3 / 8) / count, 0, 1)


def nested_correlation(p: np.ndarray) -> np.ndarray:
    """Correlations (M, M) of the shares ``p`` (M,), all strictly between 0 and 1, of nested subsets of a sample."""
    odds = p / (1 - p)
    return np.sqrt(np.minimum.outer(odds, odds) / np.maximum.outer(odds, odds))


@dataclass(frozen=True)
class _Distances:
    """Squared distances between rows, (R, R), in settings (inf where unknown) and positions; whether of one trial."""

    setting: np.ndarray
    position: np.ndarray
    same: np.ndarray
    reference: np.ndarray  # whether of one reference

    @classmethod
    def of(cls, rows: Rows) -> _Distances:
        same = rows.trial[:, None] == rows.trial[None, :]
        gap = ((rows.setting[:, None, :] - rows.setting[None, :, :]) ** 2).sum(-1) / max(1, rows.setting.shape[1])
        setting = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
        reference = (rows.reference[:, None] == rows.reference[None, :]) & (rows.reference[:, None] > 0)
        span = float(np.ptp(rows.position)) or 1.0
        return cls(setting, ((rows.position[:, None] - rows.position[None, :]) / span) ** 2, same, reference)

    def covariance(self, scales: dict[str, float]) -> np.ndarray:
        """Of the rates of any one class, (R, R), before the images are seen."""
        near = np.exp(-self.setting / (2 * scales["setting_length"] ** 2))
        trials = scales["class"] ** 2 + scales["setting"] ** 2 * near + scales["training"] ** 2 * self.same
        trials = trials + REFERENCE**2 * self.reference
        along = np.exp(-self.position / (2 * scales["position_length"] ** 2))
        return trials * along + JITTER * np.eye(len(along))

    def likeness(self, scales: dict[str, float]) -> np.ndarray:
        """What the noise of models that are right alike is multiplied by, (R, R)."""
        return COMMON + scales["own"] * self.same


def _noise(rows: Rows, k: int) -> np.ndarray:
    """Covariance (R, R) of the transformed counts of class ``k`` given the rates, if all models were right alike.

    Along a curve the images classified right are nested sets, whose correlation is exp(-|difference of log odds| / 2)
    (`nested_correlation`); the log odds are those of a line through all curves, since a correlation that follows each
    row's own count would pass differences between rates off as noise. The diagonal has the rounding of a rate to whole
    images, 1/12 of an image squared.
    """
    odds = np.log((rows.right[:, k] + 0.5) / (rows.count[:, k] - rows.right[:, k] + 0.5))
    centred = rows.position - rows.position.mean()
    slope = float(centred @ odds) / (float(centred @ centred) or 1.0)
    apart = np.abs(slope * (rows.position[:, None] - rows.position[None, :]))
    variance = 1 / (4 * rows.count[:, k] + 2)
    return np.exp(-apart / 2) * np.sqrt(np.outer(variance, variance)) + np.diag(4 / 3 * variance**2)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix A with A A' = covariance, which may be singular: the smallest jitter that works is added."""
    eye, jitter = np.eye(len(covariance)), JITTER
    while True:
        try:
            return cholesky(covariance + jitter * eye, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            jitter *= 10


def _fit(distances: _Distances, parts: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """The scales that ``parts`` (P, R) with ``noise`` (P, R, R) share: the maximum of prior times likelihood."""
    residual = (parts - parts.mean(1, keepdims=True))[:, :, None]
    centre = np.log([median for median, _ in PRIORS.values()])
    width = np.array([deviation for _, deviation in PRIORS.values()])

    def loss(standard: np.ndarray) -> float:
        scales = dict(zip(PRIORS, np.exp(centre + width * standard)))
        factor = np.linalg.cholesky(distances.covariance(scales) + distances.likeness(scales) * noise)
        white = np.linalg.solve(factor, residual)
        half_log_determinant = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum()
        return float((white**2).sum() / 2 + half_log_determinant + (standard**2).sum() / 2)

    bounds = [(-3.0, 3.0)] * len(PRIORS)
    best = minimize(loss, np.zeros(len(PRIORS)), method="L-BFGS-B", bounds=bounds, options={"maxiter": 20})
    return dict(zip(PRIORS, np.exp(centre + width * best.x)))


def _spread(rows: Rows) -> np.ndarray:
    """At most ``SCALE_ROWS`` rows for the fit: first, middle and last point of the curves of trials evenly spaced."""
    curves = [np.flatnonzero(rows.trial == t) for t in dict.fromkeys(rows.trial.tolist())]
    ends = [c[np.argsort(rows.position[c], kind="stable")][np.unique([0, len(c) // 2, len(c) - 1])] for c in curves]
    step = max(1, math.ceil(sum(map(len, ends)) / SCALE_ROWS))
    return np.concatenate(ends[::step])
