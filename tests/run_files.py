"""What a finished run leaves in its folder."""

RUN_FILES = [
    "history.csv",
    "labels.txt",
    "model.keras",
    "model_card.md",
    "model_float32.tflite",
    "model_int8.tflite",
    "report.html",
    "report.json",
    "saved_model",
]
