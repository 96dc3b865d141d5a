"""The tools that `run.py` compares, each with its script and environment: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """One row of the table. script: beside this file. environment: of `requirements/NAME.txt`; packages: named in it.

    options: of the script's `train`. weights: the bundled backbone whose ImageNet weights the script gets, "" for none.
    settings: what the script does, in words.
    """

    name: str
    title: str
    script: str
    environment: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    weights: str = ""
    settings: str = ""
    splitter: str = ""
    no_export: str = ""


BESTIARY = Tool(
    "bestiary",
    "**bestiary**, probe (lite2)",
    "bestiary_probe.py",
    "bestiary",
    ("bestiary", "onnxruntime", "openvino", "scikit-learn"),
    settings="defaults; the time includes audit, scores and report",
    splitter="bestiary's own",
)
TOOLS = (
    BESTIARY,
    Tool(
        "bestiary-lite0",
        "bestiary, probe (lite0)",
        "bestiary_probe.py",
        "bestiary",
        BESTIARY.packages,
        ("--backbone", "lite0"),
        settings="the same with --backbone lite0",
        splitter="bestiary's own",
    ),
    Tool(
        "sklearn",
        "features and scikit-learn by hand (lite2)",
        "sklearn_by_hand.py",
        "sklearn",
        ("torch", "timm", "scikit-learn"),
        ("--backbone", "lite2"),
        "lite2",
        "torch features, scaling, logistic regression, six regularisations",
        "train_test_split, 20 %, stratified",
        "no exported file: the script is the model",
    ),
    Tool(
        "timm",
        "timm fine-tuning (lite0)",
        "timm_finetune.py",
        "timm",
        ("torch", "timm"),
        ("--backbone", "lite0", "--epochs", "4"),
        "lite0",
        "all layers, AdamW, 4 epochs",
    ),
    Tool(
        "keras-v1",
        "original project, v1 (Keras)",
        "keras_original.py",
        "keras",
        ("keras", "tensorflow-cpu"),
        ("--variant", "v1", "--epochs", "4"),
        settings="the middle 150 pixels, 4 epochs, from scratch",
        splitter="image_dataset_from_directory, validation_split=0.2",
    ),
    Tool(
        "keras-v2",
        "original project, v2 (Keras)",
        "keras_original.py",
        "keras",
        ("keras", "tensorflow-cpu"),
        ("--variant", "v2", "--epochs", "4"),
        settings="resized to 150 pixels, mirrored copies, dropout, 4 epochs, from scratch",
        splitter="image_dataset_from_directory, validation_split=0.2",
    ),
    Tool(
        "fastai",
        "fastai (lite0)",
        "fastai_vision.py",
        "fastai",
        ("torch", "timm", "fastai"),
        ("--backbone", "lite0", "--epochs", "2"),
        "lite0",
        "vision_learner, fine_tune(2): one epoch of the head, two of all layers",
        "RandomSplitter, 20 %",
    ),
    Tool(
        "ultralytics",
        "Ultralytics classify (nano)",
        "ultralytics_classify.py",
        "ultralytics",
        ("torch", "ultralytics"),
        ("--epochs", "15"),
        settings="without pretrained weights (none at hand offline), 15 epochs",
        splitter="split_classify_dataset, 20 %",
    ),
    Tool(
        "autogluon",
        "AutoGluon MultiModal (lite0)",
        "autogluon_multimodal.py",
        "autogluon",
        ("torch", "timm", "autogluon.multimodal"),
        ("--backbone", "lite0", "--seconds", "600"),
        "lite0",
        "timm_image from a local checkpoint, defaults (20 epochs), stopped after 600 s",
        "split_train_tuning_data, default fraction",
    ),
)
