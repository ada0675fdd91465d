"""What other input pipelines do with the same files: run by `input.py` in an environment that has one of them.

    python benchmarks/input_peer.py JOB.json

It knows tf.data, as the ImageNet example of Flax uses it (crop while decoding, bicubic resize without antialiasing),
and torch's DataLoader with Pillow, as torchvision's reference training uses it. Each is measured in one process, from
which no copy has to be made; tf.data with its normalization and without. The result is a line of JSON.
"""

import importlib.util
import json
import os
import pathlib
import sys
import time

import numpy as np


def tensorflow_batches(job):
    """Yield batches of (batch, size, size, 3) for ever: uint8, or normalized float32 where the job asks for it."""
    import tensorflow as tf

    size, threads = job["size"], len(job["cores"])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)

    def train(encoded):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        return tf.image.random_flip_left_right(resized(encoded, window, size))

    def evaluate(encoded):
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(encoded))
        side = tf.cast(job["size"] / job["resize"] * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
        return resized(encoded, tf.stack([(height - side) // 2, (width - side) // 2, side, side]), size)

    def finish(image):
        if not job["normalize"]:
            return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
        return (image - 255.0 * tf.constant([0.485, 0.456, 0.406])) / (255.0 * tf.constant([0.229, 0.224, 0.225]))

    transform = train if job["transform"] == "train" else evaluate
    data = tf.data.Dataset.from_tensor_slices(job["files"]).repeat().shuffle(len(job["files"]))
    data = data.map(lambda file: finish(transform(tf.io.read_file(file))), num_parallel_calls=threads).batch(
        job["batch"]
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.deterministic = False
    return data.prefetch(2).with_options(options).as_numpy_iterator()


def resized(encoded, window, size):
    """Crop while decoding, and resize by a bicubic filter that is not widened."""
    import tensorflow as tf

    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    return tf.image.resize(image, (size, size), method=tf.image.ResizeMethod.BICUBIC)


def tensorflow_far_from(job):
    """Return how far crops are from those of a file, in 1/255."""
    import tensorflow as tf

    with np.load(job["crops"]) as crops:
        windows, expected = crops["windows"], crops["images"]
    return float(
        np.mean(
            [
                np.abs(resized(tf.io.read_file(file), window, job["size"]).numpy().clip(0, 255) - image).mean()
                for file, window, image in zip(job["files"], windows, expected, strict=True)
            ]
        )
    )


def torchvision_version():
    """Import torchvision, also one that was built for another torch, and return its version and torch's."""
    import torch

    (folder,) = importlib.util.find_spec("torchvision").submodule_search_locations
    try:
        torch.ops.load_library(next(pathlib.Path(folder).glob("_C*.so")))
    except (OSError, StopIteration):  # its operators, of which nothing here uses any, have to be declared
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return f"{torch.__version__}, torchvision {torchvision.__version__}"


def torch_transform(job):
    """Return torchvision's transform of a Pillow image to a uint8 tensor."""
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    if job["transform"] == "train":
        steps = [transforms.RandomResizedCrop(job["size"]), transforms.RandomHorizontalFlip()]
    else:
        steps = [transforms.Resize(job["resize"], InterpolationMode.BILINEAR), transforms.CenterCrop(job["size"])]
    return transforms.Compose([*steps, transforms.PILToTensor()])


def torch_open(file):
    """Return an image in RGB."""
    from PIL import Image

    with Image.open(file) as image:
        return image.convert("RGB")


def torch_batches(job):
    """Yield batches of uint8 (batch, 3, size, size) for ever."""
    import torch

    transform = torch_transform(job)

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return 10**9

        def __getitem__(self, index):
            return transform(torch_open(job["files"][index % len(job["files"])]))

    torch.set_num_threads(1)
    order = torch.utils.data.RandomSampler(range(len(job["files"])), replacement=True, num_samples=10**8)
    return iter(torch.utils.data.DataLoader(Files(), job["batch"], sampler=order))


def torch_evaluated(job):
    """Write torchvision's evaluation of the files to one, as uint8 (files, size, size, 3)."""
    transform = torch_transform(job)
    images = [transform(torch_open(file)).permute(1, 2, 0).numpy() for file in job["files"]]
    np.save(job["out"], np.stack(images))


def rate(batches, job):
    """Return images a second of CPU time and of the time that passed, after some batches that do not count."""
    for _ in range(job["warm_up"]):
        next(batches)
    started, busy, images = time.perf_counter(), time.process_time(), 0
    while (passed := time.perf_counter() - started) < job["seconds"]:
        images += len(next(batches))
    return {"rate": images / (time.process_time() - busy), "wall": images / passed}


def main():
    """Do one job and print what came out."""
    job = json.loads(pathlib.Path(sys.argv[1]).read_text())
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.sched_setaffinity(0, job["cores"])
    if job["peer"] == "tensorflow":
        import tensorflow

        result = {"version": tensorflow.__version__}
        if job["task"] == "rate":
            result |= rate(tensorflow_batches(job), job)
        else:
            result["far"] = tensorflow_far_from(job)
    else:
        result = {"version": torchvision_version()}
        if job["task"] == "rate":
            result |= rate(torch_batches(job), job)
        else:
            torch_evaluated(job)
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # without waiting for the workers of an endless pipeline


if __name__ == "__main__":
    main()
