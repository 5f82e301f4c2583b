"""Definitions of the report's terms, and readable texts for names in the metrics files."""

from __future__ import annotations

GLOSSARY = {
    "accuracy": "Top-1 accuracy: the share of images whose most probable class is the label.",
    "NLL": "Negative log-likelihood (cross-entropy), in nats: the mean of −log(probability of the labeled class). "
    "Lower is better. Unlike accuracy, it also measures how confident the model is. “Loss” on this page is the NLL.",
    "precision, recall, F1": "Precision is the share of a class’s predictions that are correct. Recall is the share of "
    "its images that are found. F1 is the harmonic mean of the two.",
    "calibration, ECE": "A model is calibrated if predictions with 90 % confidence are correct 90 % of the time. The "
    "expected calibration error (ECE) is the mean gap between confidence and accuracy over 15 bins; 0 is perfect.",
    "pp": "Percentage points: the difference of two percentages.",
    "95 % CI": "Confidence interval: of 100 intervals computed this way, about 95 contain the true value.",
    "95 % PI": "Prediction interval: contains the value measured in a new run with a probability of 95 %.",
    "parameters": "The number of trainable weights of the network; N in the scaling law.",
    "width": "Scales every hidden layer. The number of parameters grows roughly with its square.",
    "MACs": "Multiply-accumulate operations per image: the model’s compute, independent of the hardware.",
    "FLOPs": "Floating-point operations. For training: forward and backward passes over all images seen.",
    "latency": "Time of one inference call. p50 is the median; 95 % of calls are faster than p95, 99 % than p99.",
    "scaling law": "A formula for the loss as a function of model size N and unique training images D, such as "
    "L = E + A/N^α + B/D^β. It is fitted to small training runs and predicts larger ones.",
    "exponents α, β": "How fast the loss falls with size and with data. A larger exponent means a faster fall.",
    "irreducible loss E": "The law’s limit for unlimited size and data; also called its floor.",
    "held out": "Excluded from the fit and then predicted: a test of the law on data it has not seen.",
    "compute-optimal": "The model size with the lowest loss for a given training budget.",
    "control": "A model trained the same way without the method under test, for comparison.",
    "distillation": "A smaller network (student) is trained to match the outputs of a larger one (teacher).",
    "pruning": "The least important channels are removed and the network is fine-tuned. The control, a network of the "
    "same shape trained from random weights, is kept instead if it is better.",
    "sparsity": "Many weights are zero. The shape of the network and its latency do not change; the compressed file is "
    "smaller.",
    "QAT": "Quantization-aware training: fine-tuning with the INT8 rounding simulated in the forward pass (fake "
    "quantization).",
    "FP16": "Weights and activations as 16-bit floats: half the size of 32-bit floats (FP32).",
    "INT8": "Weights and activations as 8-bit integers: a quarter of the size of FP32, and faster on CPUs with INT8 "
    "instructions.",
    "ONNX": "A file format for trained models, which can then run without Python or PyTorch.",
    "augmentation": "Random transformations of the training images (shift, rotation, …) that keep the label.",
    "occlusion map": "How far the probability of the predicted class drops when a square of the image’s mean color, a "
    "fifth of the image wide, hides each place in turn (Zeiler and Fergus 2014). It shows what one prediction depends "
    "on, not why.",
}

# metrics/data.json: reason for dropping an image → text after a count of images
DROP_REASONS = {
    "undecodable": "could not be decoded or are truncated",
    "blank": "have a single color",
    "conflicting_labels": "have the same pixels as an image of another class, so the label is unknown",
    "leak": "are also in the val or test split",
    "exact_duplicate": "have the same pixels as another image",
    "near_duplicate": "look the same as another image (perceptual hash)",
}

# scaling/scaling.json: parameter of the law → its meaning
LAW_PARAMETERS = {
    "E": "irreducible loss: the limit for unlimited size and data",
    "A": "coefficient of the size term",
    "alpha": "exponent of size: doubling N multiplies its term by 2 to the power of −α",
    "B": "coefficient of the data term",
    "beta": "exponent of data: doubling D multiplies its term by 2 to the power of −β",
    "G": "coefficient of the training-length term",
    "gamma": "exponent of training length: doubling S multiplies its term by 2 to the power of −γ",
    "L0": "loss in the limit of no size and no data",
    "bend": "how early the law bends toward that loss",
    "c0": "exponent before the break",
    "c1": "change of the exponent at the break",
    "d1": "level of the break",
    "f1": "width of the break, in natural logarithms of the level",
}

# plots/scaling/NAME.svg → title
LAW_PICTURES = {
    "parameters": "Loss vs. model size",
    "unique_samples": "Loss vs. training images",
    "seen_samples": "Loss vs. images seen",
    "flops": "Loss vs. compute",
}
SIZES_PICTURE = "image_sizes", "Loss vs. compute by image size"
OPTIMUM_PICTURES = {"isoflop": "Loss vs. model size at constant compute", "surface": "Predicted loss by size and data"}

# kind of a diagnostic (scaling.json, flags of forecast.json) → short text; scaling.json also has the full message
DIAGNOSTICS = {
    "runs_excluded": "some runs are excluded from the fit",
    "single_size": "the study has one model size",
    "single_data_size": "the study has one data size",
    "few_sizes": "the study has few model sizes",
    "few_data_sizes": "the study has few data sizes",
    "few_budgets": "the study has few training lengths or budgets",
    "single_seed": "the study has one seed per configuration",
    "repeated_seed": "some runs repeat a configuration and seed",
    "no_noise_estimate": "there are too few runs to estimate the noise",
    "flops_assumed": "FLOPs are estimated, not measured",
    "irreducible_loss_at_zero": "the fitted irreducible loss E is 0",
    "no_gain": "the loss does not fall with size, data or training length",
    "lack_of_fit": "the law does not fit the runs",
    "forms_disagree": "plausible laws disagree",
    "no_held_out": "nothing was held out",
    "held_out_without_interval": "the held-out prediction has no interval",
    "held_out_outside_interval": "the held-out loss is outside its prediction interval",
    "held_out_interval_too_wide": "the held-out prediction interval is too wide to test the law",
    "parameter_at_bound": "the runs do not identify the bend of the law",
    "backtest_missed": "a backtest lies outside its interval",
    "extrapolation": "the model is more than 4 times as large as the study’s largest",
    "optimum_extrapolated": "a compute-optimal size is outside the study",
    "optimum_unbounded": "a budget has no compute-optimal size",
    "profile_rejected": "an IsoFLOP profile has no optimum within its sizes",
    "profile_disagrees": "an IsoFLOP curve and the law disagree",
    "more_samples_than_studied": "there are more training images than in the study",
    "longer_than_studied": "training is longer than in the study",
    "metric_rises": "the metric rises with scale, so it is no loss",
    "metric_unclear": "the name of the loss column suggests another metric",
    "units_disagree": "FLOPs are far from 6 per parameter and sample seen",
}
