"""How requests are decorated: politeness, openings and endings; data only.

Like requests, a quarter of each tuple is held out.  `{}` stands for the request; a command is given
without its full stop, a question with its question mark.
"""

COMMANDS = (
    "please {}.", "please {}.", "{}, please.", "{} please.", "can you {}?", "could you {}?",
    "can you please {}?", "could you please {}?", "would you {}?", "would you please {}?",
    "will you {}?", "I want you to {}.", "I would like you to {}.", "I'd like you to {}.",
    "I need you to {}.", "now {}.", "ok, {}.", "okay, {}.", "hey, {}.", "hi, please {}.",
    "just {}.", "can u {}?", "pls {}.", "{} pls.", "try to {}.", "your task: {}.", "task: {}.",
    "next, {}.", "kindly {}.", "hello, can you {}?", "help me {}.", "let's see: {}.",
    "are you able to {}?", "{} for me.", "{} for me, please.", "{} now.", "could you {} for me?",
    "do me a favour and {}.", "it would be nice if you could {}.", "{}, thanks.",
)  # fmt: skip
QUESTIONS = (
    "tell me, {}", "please tell me: {}", "can you tell me: {}", "so, {}", "ok, {}", "okay, {}",
    "hey, {}", "hi, {}", "hello, {}", "hi! {}", "question: {}", "quick question: {}",
    "my question: {}", "please: {}", "I wonder: {}", "I was wondering, {}", "now, {}", "and {}",
    "well, {}", "say, {}", "next question: {}", "I have a question: {}", "one more: {}",
    "let me ask: {}", "please answer: {}", "what do you think, {}", "{} please", "{} thanks",
    "{} thank you", "{} Please answer briefly.", "{} Answer briefly.", "{} Be brief.",
    "{} Tell me.", "{} Please tell me.", "{} I want to know.", "{} Do you know?", "{} Be precise.",
    "{} :)",
)  # fmt: skip
LETTERS = (  # asked for one letter
    "{} Reply Y or N.", "{} Answer Y or N.", "{} Y or N?", "{} (Y/N)", "{} Y/N", "{} [Y/N]",
    "{} y/n", "{} Answer with Y or N.", "{} Reply with Y or N only.", "{} Just Y or N.",
    "Answer Y or N: {}", "Y or N: {}", "{} Respond with a single letter, Y or N.",
    "{} Only Y or N, please.",
)  # fmt: skip
YES_NO = (  # asked for a whole word
    "{} Answer yes or no.", "{} Yes or no?", "{} (yes/no)", "yes or no: {}", "{} yes/no",
    "{} Reply with yes or no.", "{} Please answer with yes or no.", "{} Just yes or no.",
)  # fmt: skip
ONE_WORD = (
    "{} Answer in one word.", "{} One word.", "{} Answer with one word.",
    "{} Reply with a single word.", "{} Use one word only.", "in one word, {}",
)  # fmt: skip
NUMBER = (
    "{} Answer with a number.", "{} Just the number.", "{} Reply with a number only.",
    "{} Only the number, please.", "{} Give a number.", "{} As a digit.",
)  # fmt: skip
CONTRACTIONS = (
    ("what is ", "what's "), ("where is ", "where's "), ("which is ", "which's "),
    ("there is ", "there's "), ("is there not", "isn't there"), ("I would", "I'd"),
    ("who is ", "who's "), ("it is ", "it's "), ("what's ", "whats "), ("where's ", "wheres "),
    ("it's ", "its "), ("do you ", "do u "), ("are you ", "r u "), ("please", "pls"),
    ("picture", "pic"), ("image", "img"), ("you ", "u "), ("the ", ""), ("the ", "teh "),
)  # fmt: skip
