"""Videos: objects keep their numbers through a short miss and a crossing; frames are read, written and drawn."""

import csv
import struct
import types

import numpy as np
import pytest

from keras_maskrcnn.data.images.forms import ImageError
from keras_maskrcnn.video import Tracker, predict_video
from keras_maskrcnn.video.files import VideoFrames, VideoWriter, import_av, is_video
from keras_maskrcnn.video.tracking import mask_iou

SIZE, RADIUS, FRAMES = (120, 200), 12, 40
ROWS, COLUMNS = np.mgrid[: 2 * RADIUS + 1, : 2 * RADIUS + 1] - RADIUS
DISC = ROWS**2 + COLUMNS**2 <= RADIUS**2


def place(x, y):
    return DISC, round(x) - RADIUS, round(y) - RADIUS


def paths(frame):
    """Three discs of a class: two cross each other, the third moves alone."""
    return [(20 + 4 * frame, 30 + 1.5 * frame), (180 - 4 * frame, 30 + 1.5 * frame), (30 + 3 * frame, 100)]


def follow(tracker, frames, scores_of=lambda frame: [0.9] * 3, hidden=()):
    """Numbers of the discs by frame; `hidden`: pairs (frame, disc) that are not found. None stands for those."""
    told = []
    for frame in frames:
        seen = [k for k in range(3) if (frame, k) not in hidden]
        windows = [place(*paths(frame)[k]) for k in seen]
        scores = [scores_of(frame)[k] for k in seen]
        numbers = dict(zip(seen, tracker.update(windows, [0] * len(seen), scores), strict=True))
        told.append([numbers.get(k) for k in range(3)])
    return told


def test_discs_that_cross_keep_their_numbers():
    assert follow(Tracker(), range(FRAMES)) == [[1, 2, 3]] * FRAMES


def test_a_disc_that_is_hidden_for_some_frames_keeps_its_number():
    # The first is behind the second while they cross.
    hidden = {(frame, 0) for frame in range(17, 24)} | {(frame, 2) for frame in (8, 9)}
    told = follow(Tracker(), range(FRAMES), hidden=hidden)
    assert told == [[None if (frame, k) in hidden else k + 1 for k in range(3)] for frame in range(FRAMES)]
    told = follow(Tracker(patience=1), range(FRAMES), hidden=hidden)
    assert [row[0] for row in told][-1] == 5 and [row[2] for row in told][-1] == 4


def test_unsure_objects_go_on_but_begin_nothing():
    told = follow(Tracker(), range(FRAMES), lambda frame: [0.9, 0.3 if 10 < frame < 15 else 0.9, 0.3])
    assert told == [[1, 2, None]] * FRAMES
    told = follow(Tracker(), range(FRAMES), lambda frame: [0.9, 0.05 if 10 < frame < 15 else 0.9, 0.3])
    assert [row[1] for row in told] == [2] * 11 + [None] * 4 + [2] * 25


def test_a_track_is_of_one_class():
    tracker = Tracker()
    assert tracker.update([place(30, 30)], [0], [0.9]) == [1]
    assert tracker.update([place(31, 30)], [1], [0.9]) == [2]
    assert tracker.update([place(32, 30), place(32, 30)], [1, 0], [0.9, 0.9]) == [2, 1]
    assert tracker.update([], [], []) == []
    assert tracker.update([(np.zeros((3, 3), bool), 0, 0)], [0], [0.9]) == [None]


def test_overlap_of_masks_in_windows():
    one = np.ones((4, 6), bool)
    assert mask_iou((one, 0, 0), (one, 3, 2)) == 6 / 42 and mask_iou((one, 0, 0), (one, 6, 0)) == 0
    assert mask_iou((DISC, 5, 7), (DISC, 5, 7)) == 1


class ChannelFinder:
    """Finds a disc in each colour channel that is brighter than the ground."""

    def predict(self, pixels):
        found = types.SimpleNamespace(boxes=[], scores=[], labels=[], mask_windows=[], class_names=("disc",))
        for channel in range(3):
            ys, xs = np.nonzero(pixels[..., channel] > 128)
            if len(ys) > 50:
                y1, x1, y2, x2 = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
                found.boxes.append((x1, y1, x2, y2))
                found.mask_windows.append((pixels[y1:y2, x1:x2, channel] > 128, int(x1), int(y1)))
                found.scores.append(0.9)
                found.labels.append(0)
        return found


@pytest.fixture
def video(tmp_path):
    """A video of the three discs, one in each colour channel; the third is hidden in two frames."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'keras-maskrcnn[video]'")
    with VideoWriter(tmp_path / "discs.mp4", 20, "discs") as writer:
        for frame in range(FRAMES):
            picture = np.full((*SIZE, 3), 20, np.uint8)
            for k, (x, y) in enumerate(paths(frame)):
                if k < 2 or frame not in (8, 9):
                    window, left, top = place(x, y)
                    picture[top : top + 25, left : left + 25, k][window] = 250
            writer.add(picture)
    return tmp_path / "discs.mp4"


def test_a_video_becomes_a_table_and_a_video(video, tmp_path):
    steps = []
    done = predict_video(ChannelFinder(), video, tmp_path / "out", Tracker(), progress=lambda *at: steps.append(at))
    assert done[:3] == (FRAMES, 3 * FRAMES - 2, 3) and steps[-1] == (FRAMES, FRAMES)
    rows = list(csv.DictReader((tmp_path / "out" / "objects.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 3 * FRAMES - 2
    for row in rows:
        frame, track = int(row["frame"]), int(row["track"])
        expected = np.array(paths(frame)[track - 1]) + 0.5
        centre = float(row["centroid_x_px"]), float(row["centroid_y_px"])
        assert abs(centre - expected).max() < 1.5 and float(row["time_s"]) == frame / 20
        assert abs(float(row["area_px"]) - DISC.sum()) < 60 and row["class"] == "disc" and row["score"] == "0.9"
    pictures = list(VideoFrames(tmp_path / "out" / "annotated.mp4"))
    assert len(pictures) == FRAMES and pictures[0].shape == (*SIZE, 3)
    assert abs(pictures[0][30, 20].astype(int) - [250, 20, 20]).max() > 40  # drawn over


def test_without_tracks_each_frame_is_alone(video, tmp_path):
    done = predict_video(ChannelFinder(), video, tmp_path / "out", score=0.95)
    assert done[:3] == (FRAMES, 0, 0)
    done = predict_video(ChannelFinder(), video, tmp_path / "out")
    assert done[:3] == (FRAMES, 3 * FRAMES - 2, 0)
    rows = list(csv.DictReader((tmp_path / "out" / "objects.csv").open(encoding="utf-8", newline="")))
    assert {row["track"] for row in rows} == {""}


def test_objects_without_masks_are_followed_by_their_boxes(video, tmp_path):
    """Of a model with boxes alone: the three discs keep their numbers, and are drawn as boxes."""

    class BoxFinder(ChannelFinder):
        def predict(self, pixels):
            found = super().predict(pixels)
            middles = [
                (x + np.nonzero(disc)[1].mean(), y + np.nonzero(disc)[0].mean()) for disc, x, y in found.mask_windows
            ]
            found.boxes = [(x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1) for x, y in middles]
            del found.mask_windows
            return found

    done = predict_video(BoxFinder(), video, tmp_path / "out", Tracker())
    assert done[:3] == (FRAMES, 3 * FRAMES - 2, 3)
    rows = list(csv.DictReader((tmp_path / "out" / "objects.csv").open(encoding="utf-8", newline="")))
    assert {(row["area_px"], row["centroid_x_px"], row["centroid_y_px"]) for row in rows} == {("", "", "")}
    for row in rows:
        x, y = paths(int(row["frame"]))[int(row["track"]) - 1]
        box = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
        assert abs(np.subtract(box, [x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1])).max() < 2
    plain, drawn = (next(iter(VideoFrames(path))).astype(int) for path in (video, tmp_path / "out" / "annotated.mp4"))
    changed = abs(drawn - plain).max(axis=-1) > 60
    assert changed[25:35, 7:10].any() and not changed[26:34, 14:26].any()  # the box's left side, not the disc


def test_what_is_no_video_is_named_and_the_old_files_stay(video, tmp_path):
    predict_video(ChannelFinder(), video, tmp_path / "out")
    before = (tmp_path / "out" / "objects.csv").read_bytes()
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ImageError, match="A video must be of a format that FFmpeg reads"):
        predict_video(ChannelFinder(), tmp_path / "bad.mp4", tmp_path / "out")
    finder = ChannelFinder()
    finder.predict = lambda pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        predict_video(finder, video, tmp_path / "out")
    assert (tmp_path / "out" / "objects.csv").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == ["annotated.mp4", "objects.csv"]


def test_videos_are_known_by_their_ending(monkeypatch):
    assert is_video("a.MP4") and is_video("b/c.avi") and not is_video("a.gif") and not is_video("s3://a/b.mp4")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"keras-maskrcnn\[video\]"):
        import_av("a.mp4")


def test_a_video_is_turned_as_its_file_says(video, tmp_path):
    plain = next(iter(VideoFrames(video)))
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 44  # of a phone that was held upright: a quarter turn clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 2**16, 0, -(2**16), 0, 0, SIZE[0] << 16, 0, 2**30)
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = next(iter(VideoFrames(tmp_path / "turned.mp4")))
    assert turned.shape == (SIZE[1], SIZE[0], 3)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
