"""Words for things and colours that the model does not know: data only.

`names.py` holds a quarter of the nouns out.  Nouns that a drawn shape could be taken for (ball,
box, sun, wheel) are left out altogether.  NEAR lists, for an unknown word, the known kinds and
colours that it might be used for: nobody asks for it beside one of those.
"""

NOUNS = """
cat dog horse cow pig sheep goat donkey rabbit mouse rat hamster squirrel fox wolf bear lion tiger
leopard elephant giraffe zebra monkey gorilla kangaroo koala panda camel deer moose hippo rhino
bat otter beaver hedgehog badger whale dolphin shark seal walrus penguin owl eagle hawk parrot
pigeon crow swan duck goose chicken turkey peacock ostrich flamingo bird fish frog toad snake
lizard turtle tortoise crocodile dinosaur dragon unicorn spider ant bee wasp fly mosquito
butterfly moth beetle ladybird worm snail slug crab lobster octopus squid jellyfish puppy
kitten lamb calf foal person man woman boy girl child baby people teacher doctor nurse farmer
pilot soldier king queen prince princess clown pirate wizard ninja robot ghost monster alien angel
vampire zombie skeleton skull face hand foot arm leg nose ear mouth finger tooth beard smile hat
cap shirt coat dress skirt shoe boot sock glove scarf belt crown glasses umbrella backpack
suitcase wallet purse necklace car bus lorry truck van taxi tram train bicycle bike motorbike
scooter tractor ambulance helicopter plane aeroplane airplane rocket boat ship submarine canoe
yacht ferry spaceship skateboard house castle tower church bridge road street tunnel lighthouse
barn tent igloo skyscraper school shop station airport harbour farm garden park forest tree bush
flower rose tulip daisy sunflower grass leaf branch cactus mushroom mountain hill volcano river
lake sea beach island desert cave waterfall cloud rainbow lightning snowman snowflake fire smoke
apple banana pear lemon strawberry cherry grape pineapple mango melon peach plum carrot potato
tomato onion cucumber pepper broccoli pumpkin bread cake sandwich burger hotdog sausage cheese egg
ham steak soup salad noodle biscuit muffin pancake waffle chocolate candy lollipop popcorn
icecream cup mug glass bottle bowl fork knife spoon pan kettle toaster oven fridge lamp candle
torch chair table sofa bed desk shelf wardrobe curtain carpet pillow blanket mirror vase bucket
broom ladder hammer saw screwdriver spanner drill nail axe shovel rake scissors needle thread rope
chain anchor key lock bell whistle computer laptop keyboard printer phone telephone television
radio camera microphone headphones battery cable guitar piano violin drum trumpet flute harp
saxophone pencil pen brush crayon ruler eraser notebook newspaper map flag kite balloon doll teddy
puzzle dice chess racket swing slide sword shield bow cannon bomb gun trophy medal satellite
telescope microscope planet comet galaxy windmill fountain statue fence gate chimney stairs
elevator escalator crane forklift bulldozer wheelbarrow parachute surfboard sledge ski skate
helmet goggles feather nest hourglass calculator stapler hairdryer toothbrush towel soap sponge
comb perfume lipstick syringe pill bandage stethoscope wheelchair llama alpaca armadillo chameleon
gecko salamander tadpole seahorse stingray pelican stork heron woodpecker robin sparrow
hummingbird cockroach grasshopper cricket dragonfly firefly centipede scorpion
""".split()  # fmt: skip
SHAPES = """
hexagon pentagon octagon heptagon nonagon decagon trapezoid trapezium parallelogram kite-shape
cube sphere cylinder cone pyramid prism crescent semicircle spiral zigzag teardrop pentagram
hexagram polygon ellipsoid cuboid torus helix tetrahedron dodecagon quadrilateral
""".split()  # fmt: skip
COLOURS = """
cyan teal turquoise magenta maroon navy olive lime indigo beige gold silver crimson scarlet
lavender coral salmon ivory khaki mustard peach-coloured mint amber copper bronze burgundy lilac
mauve aqua azure transparent striped spotted rainbow-coloured checkered dotted golden silvery
""".split()  # fmt: skip
ADJECTIVES = """
big small large little tiny huge old new young happy sad angry sleeping wooden plastic fluffy
shiny broken flying smiling beautiful
""".split()  # fmt: skip
PLURALS = {
    "mouse": "mice", "sheep": "sheep", "wolf": "wolves", "goose": "geese", "fish": "fish",
    "calf": "calves", "person": "people", "man": "men", "woman": "women", "child": "children",
    "people": "people", "foot": "feet", "tooth": "teeth", "glasses": "glasses", "knife": "knives",
    "leaf": "leaves", "shelf": "shelves", "dice": "dice", "scissors": "scissors",
    "headphones": "headphones", "stairs": "stairs", "goggles": "goggles", "grass": "grass",
    "bread": "bread", "fire": "fire", "smoke": "smoke", "lightning": "lightning",
    "popcorn": "popcorn", "soap": "soap", "thread": "thread", "chess": "chess", "deer": "deer",
    "moose": "moose", "squid": "squid", "helix": "helices", "ham": "ham", "soup": "soup",
    "butterfly": "butterflies", "ferry": "ferries", "sea": "seas", "potato": "potatoes",
    "tomato": "tomatoes", "mosquito": "mosquitoes", "mango": "mangoes", "volcano": "volcanoes",
    "prism": "prisms",
}  # fmt: skip
UNCOUNTED = frozenset(
    "people glasses scissors headphones stairs goggles grass bread fire smoke lightning popcorn "
    "soap thread chess ham".split()
)
NEAR = {  # unknown word: known colours and kinds that it may mean
    "cyan": ("blue", "green"), "teal": ("blue", "green"), "turquoise": ("blue", "green"),
    "aqua": ("blue", "green"), "azure": ("blue",), "magenta": ("pink", "purple", "red"),
    "maroon": ("red", "brown", "purple"), "navy": ("blue", "black"),
    "olive": ("green", "brown", "yellow"), "lime": ("green", "yellow"),
    "indigo": ("blue", "purple"), "beige": ("brown", "yellow", "white", "orange"),
    "gold": ("yellow", "orange", "brown"), "golden": ("yellow", "orange", "brown"),
    "silver": ("grey", "white"), "silvery": ("grey", "white"),
    "crimson": ("red", "pink", "purple"), "scarlet": ("red", "orange"),
    "lavender": ("purple", "pink"), "coral": ("pink", "orange", "red"),
    "salmon": ("pink", "orange", "red"), "ivory": ("white", "yellow"),
    "khaki": ("brown", "green", "yellow"), "mustard": ("yellow", "brown", "orange"),
    "mint": ("green", "white"), "peach-coloured": ("pink", "orange"),
    "amber": ("orange", "yellow", "brown"), "copper": ("brown", "orange", "red"),
    "bronze": ("brown", "orange"), "burgundy": ("red", "brown", "purple"),
    "lilac": ("purple", "pink"), "mauve": ("purple", "pink"), "transparent": ("white",),
    "trapezoid": ("rectangle", "square", "diamond"),
    "trapezium": ("rectangle", "square", "diamond"),
    "parallelogram": ("rectangle", "square", "diamond"), "kite-shape": ("diamond",),
    "cube": ("square",), "cuboid": ("square", "rectangle"), "sphere": ("circle",),
    "ellipsoid": ("oval",), "cylinder": ("rectangle",), "cone": ("triangle",),
    "pyramid": ("triangle",), "prism": ("triangle", "rectangle"), "torus": ("ring",),
    "pentagram": ("star",), "hexagram": ("star",), "spiral": ("ring",), "teardrop": ("heart",),
    "kite": ("diamond",), "octagon": ("circle",), "nonagon": ("circle",), "decagon": ("circle",),
    "dodecagon": ("circle",), "zigzag": ("line",), "heptagon": ("circle",),
    "semicircle": ("circle",), "tetrahedron": ("triangle",), "needle": ("line",),
    "polygon": ("square", "triangle", "diamond", "rectangle", "star", "cross", "arrow"),
    "quadrilateral": ("square", "rectangle", "diamond"), "balloon": ("circle", "oval"),
    "egg": ("oval", "circle"), "planet": ("circle", "ring"), "ruler": ("line", "rectangle"),
    "rope": ("line",), "thread": ("line",), "bow": ("arrow",), "apple": ("circle",),
    "grape": ("circle",), "biscuit": ("circle",), "face": ("circle",), "notebook": ("rectangle",),
    "medal": ("circle", "star"), "dice": ("square",), "flag": ("rectangle",),
    "mirror": ("rectangle", "oval"), "gate": ("rectangle",), "rocket": ("arrow",),
    "pill": ("oval",), "potato": ("oval",), "nail": ("line",), "tent": ("triangle",),
    "mountain": ("triangle",), "lemon": ("oval",), "plum": ("circle", "oval"), "worm": ("line",),
}  # fmt: skip
SYNONYMS = {  # of known words; answers use the known one
    "grey": ("gray",), "purple": ("violet",), "oval": ("ellipse",), "diamond": ("rhombus",),
    "cross": ("plus sign", "plus"), "ring": ("donut", "doughnut"), "circle": ("disc",),
    "line": ("straight line", "stroke"), "heart": ("love heart",),
}  # fmt: skip
