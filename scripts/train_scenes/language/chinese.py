"""Chinese: words, names and requests."""

COLOURS = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "black": "黑色", "white": "白色", "grey": "灰色",
    "brown": "棕色",
}  # fmt: skip
KINDS = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "cross": "十字形",
    "diamond": "菱形", "ring": "圆环", "heart": "心形", "rectangle": "长方形", "oval": "椭圆形",
    "line": "直线", "arrow": "箭头", "": "图形",
}  # fmt: skip
PLACES = {
    "at the top left": "左上方", "at the top": "上方", "at the top right": "右上方",
    "on the left": "左边", "in the middle": "中间", "on the right": "右边",
    "at the bottom left": "左下方", "at the bottom": "下方", "at the bottom right": "右下方",
}  # fmt: skip
SHAPES, MORE, YES, NO, NOT_THERE = "图形", "超过十个。", "有。", "没有。", "我没有看到。"
UNKNOWN = ("猫", "狗", "汽车", "房子", "树", "人", "花", "鸟")
REQUESTS = {
    "describe": (
        "描述这张图片。", "描述一下这张图。", "请描述这张图片。", "请描述图片。", "你看到了什么？",
        "图里有什么？", "图片里有什么？", "图中有什么？", "这是什么？", "这张图片里有什么？",
        "你能看到什么？", "描述图像内容。", "说说你看到了什么。", "我画了什么？", "图片描述",
        "这张图显示了什么？",
    ),
    "count": (
        "有多少个{things}？", "有几个{things}？", "图中有多少个{things}？",
        "图片里有几个{things}？", "你看到几个{things}？", "数一数{things}。",
        "一共有多少个{things}？", "请数一下{things}。", "{things}有几个？",
        "{things}的数量是多少？",
    ),
    "colour": (
        "{the_thing}是什么颜色？", "{the_thing}是什么颜色的？", "{the_thing}的颜色是什么？",
        "图中的{the_thing}是什么颜色？", "请问{the_thing}是什么颜色？",
        "告诉我{the_thing}的颜色。", "{the_thing}什么颜色？", "说出{the_thing}的颜色。",
    ),
    "yes_no": (
        "有{a_thing}吗？", "图中有{a_thing}吗？", "图片里有{a_thing}吗？", "你看到{a_thing}了吗？",
        "有没有{a_thing}？", "图里有没有{a_thing}？", "能看到{a_thing}吗？", "这里有{a_thing}吗？",
    ),
}  # fmt: skip


def name(colour, kind):
    """`红色圆形`."""
    return COLOURS.get(colour, "") + KINDS[kind]


def a(colour, kind):
    """The same: Chinese has no article."""
    return COLOURS[colour] + "的" + KINDS[kind] if colour and not kind else name(colour, kind)


many = a


def the(kind):
    """`圆形`."""
    return KINDS[kind]


of = the


def colour(word):
    """`红色。`"""
    return COLOURS[word] + "。"


def placed(tint, kind, place):
    """`左上方有一个红色圆形`."""
    return f"{PLACES[place]}有一个{name(tint, kind)}"


def sentence(parts):
    """`左边有一个红色圆形，右边有一个蓝色正方形。`"""
    return "，".join(parts) + "。"
