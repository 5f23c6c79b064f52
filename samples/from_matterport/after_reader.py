"""The same training without the dataset class: the package reads the annotation tool's files itself."""

import sys

import keras

import keras_maskrcnn as km

folder = sys.argv[1]
data, val = (km.open_dataset(f"{folder}/{part}", class_names=["balloon"]) for part in ("train", "val"))
model = km.maskrcnn_resnet50_fpn(1, weights="coco", class_names=data.class_names, max_instances=data.max_instances)
km.freeze(model, ["backbone"])
model.compile(keras.optimizers.SGD(0.001, momentum=0.9, global_clipnorm=5.0))
loader = km.DataLoader(data, model.config, batch_size=2, shuffle=True, augmentation="flip")
print(km.format_metrics(km.train_model(model, loader, val, "run", epochs=30)))
