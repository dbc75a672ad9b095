"""The layer tree: laws over generated trees, and what selections mean."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidSelection
from engine.layers import ROOT, Layer, LayerId, LayerTree

PATHS = (
    "", "stem", "stem.conv", "stem.bn", "stage1", "stage1.block0", "stage1.block0.conv",
    "stage1.block1", "stage1.block1.conv", "stage10", "stage10.conv", "head",
)  # fmt: skip
CONV = ("prune-channels", "quantize")


def toy() -> LayerTree:
    return LayerTree(
        Layer(LayerId(path), "Any", methods=CONV if path.endswith("conv") else ()) for path in PATHS
    )


@st.composite
def trees(draw: st.DrawFn) -> LayerTree:
    """Trees as ``named_modules`` gives them: the root first, parents before their children."""
    paths = [""]
    for _ in range(draw(st.integers(0, 15))):
        parent = draw(st.sampled_from(paths))
        name = draw(st.sampled_from(["0", "1", "10", "conv", "bn", "a_b", "*", "[x]"]))
        path = f"{parent}.{name}" if parent else name
        if path not in paths:
            paths.append(path)
    depth_first = sorted(paths, key=lambda path: path.split(".") if path else [])
    return LayerTree(Layer(LayerId(path), "Any") for path in depth_first)


def is_below(path: str, ancestor: str) -> bool:
    """The oracle: by the text of the path alone."""
    return path == ancestor or not ancestor or path.startswith(ancestor + ".")


@given(trees())
def test_children_and_parents_agree_and_each_layer_has_one_place(tree: LayerTree) -> None:
    below = [child for layer in tree for child in tree.children(layer.id)]
    assert sorted(below) == sorted(layer.id for layer in tree if layer.id != ROOT)
    for layer in tree:
        assert all(tree.parent_of(child) == layer.id for child in tree.children(layer.id))
    assert tree.parent_of(ROOT) == ROOT


@given(trees())
def test_under_is_the_layer_and_all_whose_path_begins_with_it(tree: LayerTree) -> None:
    for layer in tree:
        under = list(tree.under(layer.id))
        assert under == [one.id for one in tree if is_below(one.id, layer.id)]
        assert under[0] == layer.id


@given(trees())
def test_leaves_are_the_layers_under_which_there_is_nothing_else(tree: LayerTree) -> None:
    assert tree.leaves == tuple(one.id for one in tree if len(list(tree.under(one.id))) == 1)


@given(trees(), st.data())
def test_a_parent_equals_its_children_plus_its_own(tree: LayerTree, data: st.DataObject) -> None:
    ids = [layer.id for layer in tree]
    own = data.draw(st.dictionaries(st.sampled_from(ids), st.integers(0, 1000)))
    sums = tree.inclusive(own)
    for id_ in ids:
        parts = [sums[child] for child in tree.children(id_) if child in sums]
        parts += [own[id_]] if id_ in own else []
        assert (id_ in sums) == bool(parts), "absent is not zero"
        assert sums.get(id_, 0) == sum(parts)
        assert sums.get(id_, 0) == sum(value for one, value in own.items() if is_below(one, id_))
    assert sums.get(ROOT, 0) == sum(own.values())


@given(trees(), st.data())
def test_selecting_every_layer_by_name_and_by_glob(tree: LayerTree, data: st.DataObject) -> None:
    leaf = data.draw(st.sampled_from(tree.leaves))
    assert tree.select([leaf]) == (leaf,), "a path is a path, also when it looks like a glob"
    assert tree.select([ROOT]) == tuple(layer.id for layer in tree)
    assert tree.select(["**"]) == tuple(layer.id for layer in tree)


def test_lookups() -> None:
    tree = toy()
    assert len(tree) == len(PATHS)
    assert LayerId("stem.conv") in tree
    assert LayerId("conv") not in tree
    assert tree[LayerId("stem.conv")].name == "conv"
    assert tree[ROOT].name == ""
    assert tree.get(LayerId("nothing")) is None
    with pytest.raises(KeyError):
        tree[LayerId("nothing")]
    assert tree == toy()
    assert tree != LayerTree([Layer(ROOT, "Any")])
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)


def test_the_parent_is_the_nearest_ancestor_that_is_a_layer() -> None:
    tree = LayerTree([Layer(ROOT, "Any"), Layer(LayerId("a"), "Any"), Layer(LayerId("a.b.c"), "A")])
    assert tree.parent_of(LayerId("a.b.c")) == "a"
    assert tree.children(LayerId("a")) == ("a.b.c",)
    assert tree.parent_of(LayerId("x.y")) == ROOT


@pytest.mark.parametrize(
    ("patterns", "method", "expected"),
    [
        (["stem.conv"], None, ["stem.conv"]),
        (["stage1"], None, PATHS[4:9]),
        (["stage1.*"], None, PATHS[5:9]),
        (["stage1"], "quantize", ["stage1.block0.conv", "stage1.block1.conv"]),
        (["*.conv"], None, [path for path in PATHS if path.endswith(".conv")]),
        (["head", "stem.bn"], None, ["stem.bn", "head"]),
        (["stem.conv", "stem*"], None, ["stem", "stem.conv", "stem.bn"]),
        ([""], "prune-channels", [path for path in PATHS if path.endswith("conv")]),
        (["stage?.block[01].conv"], None, ["stage1.block0.conv", "stage1.block1.conv"]),
        (["stem.bn"], "quantize", ["stem.bn"]),  # named in full: refused later, not ignored
        ([], None, []),
    ],
)
def test_selections(patterns: list[str], method: str | None, expected: list[str]) -> None:
    assert list(toy().select(patterns, method)) == list(expected)


@pytest.mark.parametrize(
    ("pattern", "method"),
    [("conv", None), ("STEM.*", None), ("stage2*", None), ("*.bn", "quantize"), ("stem.", None)],
)
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str, method: str | None) -> None:
    with pytest.raises(InvalidSelection) as caught:
        toy().select(["stem.conv", pattern], method)
    assert f"“{pattern}”" in str(caught.value)
    assert ("quantize" in str(caught.value)) == (method is not None)


def test_a_container_without_layers_for_the_method_is_an_error() -> None:
    tree = LayerTree([Layer(ROOT, "A"), Layer(LayerId("a"), "A"), Layer(LayerId("a.b"), "A")])
    with pytest.raises(InvalidSelection, match="“a” matches no layer to which “quantize”"):
        tree.select(["a"], "quantize")


@given(st.text("stem.conv*?[]1", max_size=12))
def test_a_selection_is_what_the_glob_matches_or_an_error(pattern: str) -> None:
    matched = {path for path in PATHS if fnmatchcase(path, pattern)}
    if pattern in PATHS:
        matched |= {path for path in PATHS if is_below(path, pattern)}
    if matched:
        assert set(toy().select([pattern])) == matched
    else:
        with pytest.raises(InvalidSelection):
            toy().select([pattern])
