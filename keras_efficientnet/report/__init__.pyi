from .records import HeldOutResult as HeldOutResult
from .records import Mistake as Mistake
from .records import RunReport as RunReport
from .records import RunSettings as RunSettings
from .records import flatten as flatten
from .records import read_report as read_report
from .records import summarize_scores as summarize_scores
from .render import render as render
