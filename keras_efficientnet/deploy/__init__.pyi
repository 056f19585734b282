from .export import QUANTIZATIONS as QUANTIZATIONS
from .export import export_saved_model as export_saved_model
from .export import export_tflite as export_tflite
from .export import save_keras as save_keras
from .metadata import ModelInfo as ModelInfo
from .metadata import read_info as read_info
from .predictor import Predictor as Predictor
from .verify import verify as verify
