"""The server that `label-studio-ml start` runs, and gunicorn as `_wsgi:app`."""

from label_studio_ml.api import init_app
from model import MaskRCNNBackend

app = init_app(model_class=MaskRCNNBackend)

if __name__ == "__main__":
    app.run(host="localhost", port=9090)
