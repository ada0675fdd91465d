"""The ResNet-18 of the textbook d2l.ai (Zhang et al., Dive into Deep Learning, section 8.6) on Fashion-MNIST.

    python main.py --config=configs/d2l_resnet18.py --workdir=runs/d2l_resnet18

Its convolutions have biases and its projections no BatchNorm; the images are enlarged to 96x96. The book's recipe: SGD
without momentum, rate 0.01, batches of 128, 10 epochs, no weight decay and no augmentation; it draws its result as a
curve and states no value. Here, accuracy, time and hardware: not measured yet.
"""

from resnet_jax.config import default_config


def get_config():
    """Return the config."""
    config = default_config()
    config.model.name = "d2l_resnet18"
    config.data.source = "fashion_mnist"
    config.data.input_size = 96
    config.training.batch_size = 128
    config.training.epochs = 10.0
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "constant"
    return config
