"""Everything the stand-in model knows: its translations and its summaries.

The summaries in English are the left-hand side of translations too, so that the two models compose
on every text here.
"""

TRANSLATIONS: tuple[tuple[str, str], ...] = (
    ("Hello world!", "Bonjour monde!"),
    ("Hello, world!", "Bonjour, monde!"),
    ("Hello!", "Bonjour!"),
    ("Good morning!", "Bonjour!"),
    ("Good evening!", "Bonsoir!"),
    ("Good night!", "Bonne nuit!"),
    ("Goodbye!", "Au revoir!"),
    ("See you tomorrow!", "À demain!"),
    ("Welcome!", "Bienvenue!"),
    ("Please.", "S'il vous plaît."),
    ("Thank you.", "Merci."),
    ("Thank you very much.", "Merci beaucoup."),
    ("You are welcome.", "Je vous en prie."),
    ("Excuse me.", "Excusez-moi."),
    ("I am sorry.", "Je suis désolé."),
    ("Yes.", "Oui."),
    ("No.", "Non."),
    ("How are you?", "Comment allez-vous?"),
    ("I am very well, thank you.", "Je vais très bien, merci."),
    ("What is your name?", "Comment vous appelez-vous?"),
    ("My name is Salver.", "Je m'appelle Salver."),
    ("Where is the station?", "Où est la gare?"),
    ("What time is it?", "Quelle heure est-il?"),
    ("How much is it?", "Combien ça coûte?"),
    ("I do not understand.", "Je ne comprends pas."),
    ("Do you speak English?", "Parlez-vous anglais?"),
    ("I would like a coffee.", "Je voudrais un café."),
    ("The house is small.", "La maison est petite."),
    ("The model is ready.", "Le modèle est prêt."),
    ("Dinner is served.", "Le dîner est servi."),
    ("Enjoy your meal!", "Bon appétit!"),
    (
        "it was the best of times, it was worst of times .",
        "c'était le meilleur des temps, c'était le pire des temps .",
    ),
    ("a single man with a fortune wants a wife .", "un homme seul et riche veut une femme ."),
    ("Ishmael had no money and went to sea .", "Ismaël n'avait pas d'argent et partit en mer ."),
    ("our fathers made a new nation .", "nos pères ont créé une nouvelle nation ."),
)

# Openings of works long in the public domain (Dickens, Austen, Melville, Lincoln).
SUMMARIES: tuple[tuple[str, str], ...] = (
    (
        (
            "It was the best of times, it was the worst of times, it was the age "
            "of wisdom, it was the age of foolishness, it was the epoch of belief"
        ),
        "it was the best of times, it was worst of times .",
    ),
    (
        (
            "It is a truth universally acknowledged, that a single man in possession "
            "of a good fortune, must be in want of a wife."
        ),
        "a single man with a fortune wants a wife .",
    ),
    (
        (
            "Call me Ishmael. Some years ago, having little or no money in my purse, and nothing "
            "particular to interest me on shore, I thought I would sail about a little and see the "
            "watery part of the world."
        ),
        "Ishmael had no money and went to sea .",
    ),
    (
        (
            "Four score and seven years ago our fathers brought forth on this continent, a new nation, "
            "conceived in Liberty, and dedicated to the proposition that all men are created equal."
        ),
        "our fathers made a new nation .",
    ),
)
