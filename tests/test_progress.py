"""Progress bars show on terminals, and leave log files alone."""

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
    assert ("3/3" in capsys.readouterr().out) is shown
