"""From a folder of annotated images to a model, in ten lines. See the README beside this file."""

import sys

import keras
from PIL import Image

import keras_maskrcnn as km

folder, photo = sys.argv[1:]
train = km.open_dataset(f"{folder}/train")
val = km.open_dataset(f"{folder}/val", class_names=train.class_names, category_ids=train.category_ids)
labels = {"class_names": train.class_names, "category_ids": train.category_ids, "max_instances": train.max_instances}
model = km.maskrcnn_resnet50_fpn(len(train.class_names), weights="coco", **labels)
model.compile(keras.optimizers.AdamW(1e-4, global_clipnorm=5.0))
loader = km.DataLoader(train, model.config, batch_size=2, shuffle=True, augmentation="light")
print(km.format_metrics(km.train_model(model, loader, val, "run", epochs=20)))
found = km.Predictor(model, score_threshold=0.5)(photo)
Image.fromarray(km.draw_instances(km.data.read_image(photo), found)).save("found.png")
