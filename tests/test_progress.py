"""Progress bars show on terminals, and leave log files alone."""

import re
import sys

import pytest

from keras_maskrcnn.host.progress import progress_bar


@pytest.mark.parametrize("terminal, verbose, shown", [(True, 1, True), (True, 0, False), (False, 1, False)])
def test_bar_shows_where_somebody_watches(monkeypatch, capsys, terminal, verbose, shown):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    bar = progress_bar(3, verbose=verbose, unit_name="image")
    for done in range(3):
        bar.update(done + 1)
    told = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().out)  # without colours
    assert "3/3 images" in told if shown else told == ""


def watched(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_figures_stand_beside_the_bar_and_it_ends_when_it_is_full(monkeypatch, capsys):
    watched(monkeypatch)
    bar = progress_bar(2)
    bar.update(2, loss=0.125)
    bar.update(3, loss=0.5)  # does nothing
    told = capsys.readouterr().out
    assert "loss 0.125" in told and "0.5" not in told
    assert told.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_bar_of_unknown_length_ends_with_its_block(monkeypatch, capsys):
    watched(monkeypatch)
    with progress_bar(None, unit_name="batch") as bar:
        bar.update(7)
    assert "7/?" in capsys.readouterr().out


def test_an_error_leaves_the_terminal_with_its_cursor(monkeypatch, capsys):
    watched(monkeypatch)

    def fail():
        bar = progress_bar(3)
        bar.update(1)
        raise ValueError

    with pytest.raises(ValueError) as error:
        fail()
    del error
    assert capsys.readouterr().out.rstrip().endswith("\x1b[?25h")
