"""What is asked about scenes and how it is answered: requests, answers, conversations."""

from scripts.train_scenes.language.asking import SKILLS, ask
from scripts.train_scenes.language.question import Question, Turn, denies, unsaid
from scripts.train_scenes.language.texts import corpus
from scripts.train_scenes.language.turns import conversation

__all__ = ["SKILLS", "Question", "Turn", "ask", "conversation", "corpus", "denies", "unsaid"]
