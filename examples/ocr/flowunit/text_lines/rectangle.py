"""Rectangles around contours: corners, growing, order."""

import cv2
import numpy as np

ARC_TOLERANCE = 0.25  # pixels by which the round corners of a grown box may differ from an arc


def corners_of(points):
    """The smallest rectangle around points: corners clockwise from the top left, float32 [4, 2]; its shorter side."""
    box = cv2.minAreaRect(points)
    four = sorted(cv2.boxPoints(box), key=lambda corner: corner[0])
    left = four[:2] if four[1][1] > four[0][1] else four[1::-1]
    right = four[2:] if four[3][1] > four[2][1] else four[:1:-1]
    return np.array([left[0], right[0], right[1], left[1]]), min(box[1])


def grown(corners, ratio):
    """The outline of a box that is larger by area * ratio / circumference on all sides, with round corners, in whole
    pixels: int32 [n, 2]. The detector learned boxes that were shrunk this way."""
    box = corners.astype(np.float64)
    ahead = np.roll(box, -1, 0)
    area = abs(np.sum(box[:, 0] * ahead[:, 1] - box[:, 1] * ahead[:, 0])) / 2
    distance = area * ratio / np.sum(np.hypot(*(ahead - box).T))
    box = corners.astype(np.int64)
    box = box[(box != np.roll(box, 1, 0)).any(1)]  # corners that fell together
    if len(box) < 2:
        return corners.astype(np.int32)
    edges = np.roll(box, -1, 0) - box
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1) / np.hypot(*edges.T)[:, None]
    tolerance = min(ARC_TOLERANCE, distance * ARC_TOLERANCE)
    steps = min(np.pi / np.arccos(1 - tolerance / distance), distance * np.pi)  # of a full circle
    outline = []
    for corner, before, after in zip(box, np.roll(normals, 1, 0), normals, strict=True):
        cross = before[0] * after[1] - before[1] * after[0]
        angle = np.arctan2(np.clip(cross, -1, 1), before @ after)
        parts = max(1, int(steps / (2 * np.pi) * abs(angle) + 0.5))
        turns = 2 * np.pi / steps * np.arange(parts)
        cos, sin = np.cos(turns), np.sin(turns)
        x, y = before[0] * cos - before[1] * sin, before[0] * sin + before[1] * cos
        outline.append(corner + distance * np.stack([x, y], 1))
        outline.append(corner + distance * after[None])
    points = np.concatenate(outline)
    return np.trunc(points + np.copysign(0.5, points)).astype(np.int32)


def upright(corners):
    """Corners as float32, in the order top left, top right, bottom right, bottom left."""
    by_x = corners[np.argsort(corners[:, 0])]
    left, right = by_x[:2], by_x[2:]
    left, right = left[np.argsort(left[:, 1])], right[np.argsort(right[:, 1])]
    return np.array([left[0], right[0], right[1], left[1]], np.float32)


def inside(corners, width, height):
    """Corners moved into a page of width x height pixels."""
    return np.clip(corners, 0, np.array([width - 1, height - 1], np.float32))
