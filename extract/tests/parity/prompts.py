"""The prompts of the parity test, and the words that its small vocabularies are trained on."""

PROMPTS = [
    "a photo of a cat.",
    "A Photo of a DOG",
    "a  photo   of a red  fox",
    " blanks around it ",
    "café crème brûlée",
    "NAÏVE FAÇADE, Zürich",
    "a photo of a 🐱",
    "👩‍👩‍👧 at a party 🎉🎉",
    "the artist's sketch, isn't it?",
    "rock & roll (1950s) / jazz",
    "ice-cream: vanilla; strawberry!",
    "a_photo_of_a_pickup_truck",
    "Airbus A380-800, 12345.67",
    "日本の猫",
    "tabs\tand\nline breaks",
    "salt &amp; pepper",
    "a photo of a very large brown dog and a small white cat on a wooden table in a dark room with one window, "
    "two chairs, three paintings of ships, a lamp, some books, a clock, a vase of yellow flowers, and a carpet that "
    "somebody brought from a long journey to the mountains of a far country many years ago in winter",
    "truck truck truck truck truck truck truck truck truck truck truck truck truck truck truck truck truck truck cat",
    "x",
    "a photo of the hard to see “hidden” owl — in the wild…",
]

WORDS = """a photo of a the an image picture painting sketch drawing cat dog fox owl elk bird fish horse ship truck car plane
airplane automobile deer frog large small big red blue green yellow white black brown dark bright wooden metal table chair
room window lamp book clock flower flowers vase house tree mountain mountains river street city in on at with and one two
three very long short old new years ago winter summer hard to see hidden wild it is this that some many country cafe rock
roll jazz ice cream vanilla strawberry salt pepper pickup line lines break breaks blank blanks around artist party family
close up bad good itap low resolution cropped rendering graffiti origami toy tattoo embroidered""".split()
