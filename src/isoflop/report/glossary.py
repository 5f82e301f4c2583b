"""The report's terms in plain words."""

from __future__ import annotations

GLOSSARY = {
    "accuracy": "The share of images whose most probable class is the true one.",
    "NLL": "Negative log-likelihood: the mean of -log(probability given to the true class). Lower is better; unlike "
    "accuracy it also counts how sure the model was. “Loss” on this page.",
    "precision, recall, F1": "Of what the model called a class, the share that was it; of what was it, the share that "
    "the model found; and the harmonic mean of both.",
    "calibration, ECE": "Whether a model that says 90 % is right 90 times in 100. The expected calibration error is "
    "the mean gap between the two.",
    "parameters": "The numbers that training sets. N in the scaling law.",
    "width": "How many channels a layer has. The one knob of size: parameters grow about with its square.",
    "MACs": "Multiplications with addition for one image: the work of the model, whatever the machine.",
    "FLOPs": "Floating-point operations, here those of a whole training: forward, backward, all images.",
    "latency": "Time from an image to its answer. The median (p50) is given: half of the calls were faster.",
    "scaling law": "A formula for the loss over size N and unique training images D, such as L = E + A/N^α + B/D^β, "
    "fitted to small trainings and used to foretell larger ones.",
    "exponents α, β": "How fast the loss falls with size and with data. The larger of the two says which pays more.",
    "floor E": "The loss that no size and no amount of such data would get below, by the law.",
    "interval": "Where the true value lies in 95 of 100 such cases, as far as the runs can tell.",
    "held out": "Left out when the law is fitted, and predicted by it: the honest test of a law.",
    "compute-optimal": "The size that reaches the lowest loss for a given amount of training work.",
    "distilled": "A smaller model that was trained to imitate the outputs of a larger one.",
    "pruned": "A model with its least important channels cut out, then trained a little more; where that ends no "
    "better, a model of that shape trained from random weights.",
    "sparse": "A model many of whose weights are zero: its shape, and the time it takes, stay as they were.",
    "qat": "A model trained further with the rounding of its 8-bit graph (quantization-aware training).",
    "float16": "Weights and activations in 16 bits: half the bytes.",
    "int8": "Weights and activations in 8 bits, not 32: a quarter of the bytes, and faster where the CPU has "
    "instructions for it.",
    "ONNX": "A file format for trained models that many programs run, without Python or torch.",
    "augmentation": "Altered copies of the training images (turned, shifted …), so that the model learns what does not "
    "matter.",
    "saliency": "How strongly each pixel moves the score of the class that was answered.",
}

# What metrics/data.json calls a reason for dropping an image.
DROP_REASONS = {
    "undecodable": "could not be read as an image, or were cut short",
    "blank": "were of one colour all over",
    "conflicting_labels": "stood under two classes with the same pixels, so that no label can be trusted",
    "leak": "were also in the val or test split, which they would have given away",
    "exact_duplicate": "had the same pixels as another image",
    "near_duplicate": "looked the same as another image (perceptual hash)",
}

# What metrics/scaling.json calls a parameter of the law, and what it says.
LAW_PARAMETERS = {
    "E": "the loss that remains, whatever the size and the data",
    "A": "how much the loss gains from size, at N = 1",
    "alpha": "how fast that falls: twice the parameters leave 2 to the power of -α of it",
    "B": "how much the loss gains from data, at D = 1",
    "beta": "how fast that falls: twice the training images leave 2 to the power of -β of it",
    "G": "how much the loss gains from training longer, at S = 1",
    "gamma": "how fast that falls: twice the images seen leave 2 to the power of -γ of it",
    "L0": "the loss with no size or data at all",
    "bend": "how much the law bends towards that loss",
}
