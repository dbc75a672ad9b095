"""What is asked when a request does not say enough, and that the answer makes it again."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine import (
    ArchitectureNeeded,
    Candidate,
    ConsentNeeded,
    DataRequest,
    EngineError,
    InputsNeeded,
    InputSpec,
    Job,
    OpenRequest,
    Preprocessing,
    Snapshot,
    WeightsMissing,
)
from gui import dialogs
from gui.dialogs.factory import FactoryDialog, functions_of
from gui.dialogs.inputs import InputsDialog
from gui.document import Document, source_name
from gui.jobs import JobRunner
from gui.settings import Settings

EVIL = "<b>big</b>\u202emodel.pt"
RUNS = ("torchvision.models.resnet.ResNet", "<i>os.system</i>")
CONSENT = ConsentNeeded(
    "Opening it runs code.", details={"digest": "ab" * 32, "what": EVIL, "runs": list(RUNS)}
)
INPUTS = InputsNeeded("Nothing says what it takes.", details={"inputs": ["1x128:int64<30522"]})
CANDIDATES = (
    Candidate("torchvision:resnet50", 318, 320, ("fc.weight: 10×2048",), "10 classes"),
    Candidate("torchvision:resnext50_32x4d", 320, 320, ("extra is left over",)),
)
ARCHITECTURE = ArchitectureNeeded(
    "None fits.",
    # As lists, for errors come out of child processes as JSON.
    details={
        "candidates": [{**asdict(one), "differing": list(one.differing)} for one in CANDIDATES]
    },
)
MISSING = WeightsMissing(
    "They are not here.",
    details={"url": "https://download.pytorch.org/models/resnet50.pth", "bytes": 97_800_000},
)


@dataclass
class Session:
    """Stands for the engine's session."""

    snapshot: Snapshot

    def load_data(self, request: DataRequest, job: Job) -> Any:
        if not request.trusted:
            raise CONSENT
        return None


@dataclass
class Bench:
    """A document over an opener that raises what it is told, one error a try."""

    qtbot: QtBot
    snapshot: Snapshot
    window: QWidget
    requests: list[OpenRequest] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    document: Document = None  # type: ignore[assignment]

    def opener(self, request: OpenRequest, job: Job) -> Any:
        self.requests.append(request)
        if self.errors:
            raise self.errors.pop(0)
        return Session(self.snapshot)

    def open(self, source: str, *errors: EngineError) -> None:
        self.errors[:] = errors
        self.document.open(OpenRequest(source))
        self.settle()

    def settle(self) -> None:
        self.qtbot.waitUntil(lambda: not self.document.jobs.active)

    def dialog(self, name: str) -> QDialog:
        found = self.window.findChild(QDialog, name)
        assert isinstance(found, QDialog), name
        return found

    def click(self, name: str) -> None:
        button = self.window.findChild(QPushButton, name)
        assert isinstance(button, QPushButton), name
        button.click()
        self.settle()


@pytest.fixture
def bench(qtbot: QtBot, theme: object, pruned: Snapshot, tmp_path: Path) -> Iterator[Bench]:
    window = QWidget()
    qtbot.addWidget(window)
    window.show()
    jobs = JobRunner()
    bench = Bench(qtbot, replace(pruned, data=None), window)
    bench.document = Document(jobs, Settings(tmp_path / "settings.ini"), bench.opener)
    bench.document.answerer = lambda *asked: dialogs.answer(bench.document, window, *asked)
    bench.document.failed.connect(bench.failed.append)
    yield bench
    assert jobs.shut_down(5.0)


def _texts(dialog: QWidget) -> str:
    return "\n".join(label.text() for label in dialog.findChildren(QLabel))


def test_consent_names_file_and_code_and_enter_is_the_safe_answer(bench: Bench) -> None:
    bench.open("/tmp/model.pt", CONSENT)
    dialog = bench.dialog("consent")
    assert "<b>big</b>\\u202emodel.pt" in _texts(dialog)  # as typed, its direction mark spelt out
    runs = dialog.findChild(QPlainTextEdit, "consent_runs")
    assert runs.toPlainText().splitlines() == list(RUNS)
    assert all(
        label.textFormat() == Qt.TextFormat.PlainText for label in dialog.findChildren(QLabel)
    )
    cancel = dialog.findChild(QPushButton, "consent_cancel")
    assert cancel.isDefault()
    assert not dialog.findChild(QPushButton, "consent_accept").isDefault()
    bench.qtbot.keyClick(dialog, Qt.Key.Key_Return)
    bench.settle()
    assert [one.trusted for one in bench.requests] == [frozenset()]
    assert bench.document.snapshot is None
    assert not bench.failed


def test_consent_opens_again_with_the_digest_and_nothing_is_remembered(bench: Bench) -> None:
    bench.open("/tmp/model.pt", CONSENT)
    bench.click("consent_accept")
    assert bench.requests[-1] == OpenRequest("/tmp/model.pt", trusted=frozenset({"ab" * 32}))
    assert bench.document.snapshot is bench.snapshot
    bench.open("/tmp/model.pt", CONSENT)
    assert bench.requests[-1].trusted == frozenset()
    bench.dialog("consent").reject()


def test_consent_can_be_copied(bench: Bench) -> None:
    bench.open("/tmp/model.pt", CONSENT)
    bench.click("consent_copy")
    text = QGuiApplication.clipboard().text()
    assert "ab" * 32 in text
    assert RUNS[1] in text
    bench.dialog("consent").reject()


def test_questions_follow_one_another(bench: Bench) -> None:
    bench.open("/tmp/model.pt", CONSENT, INPUTS)
    bench.click("consent_accept")
    bench.click("inputs_accept")
    assert bench.requests[-1] == OpenRequest(
        "/tmp/model.pt",
        inputs=(InputSpec((1, 128), "int64", 30_522),),
        trusted=frozenset({"ab" * 32}),
    )
    assert bench.document.snapshot is bench.snapshot


def test_cancelling_keeps_the_open_model(bench: Bench) -> None:
    bench.open("demo")
    kept = bench.document.snapshot
    for error, name in (
        (CONSENT, "consent"),
        (INPUTS, "inputs"),
        (ARCHITECTURE, "architecture"),
        (MISSING, "weights"),
    ):
        bench.open("other", error)
        bench.dialog(name).reject()
        bench.settle()
        assert bench.document.snapshot is kept
    assert not bench.failed


def test_what_no_question_can_help_is_an_error(bench: Bench) -> None:
    lacking = ConsentNeeded("It would run code.")  # without a digest there is nothing to allow
    for error in (EngineError("It is damaged."), lacking):
        bench.open("broken.pt", error)
        assert bench.failed.pop() is error
        assert bench.window.findChild(QDialog) is None


def test_without_anybody_to_ask_it_fails(bench: Bench) -> None:
    bench.document.answerer = None
    bench.open("model.pt", CONSENT)
    assert bench.failed == [CONSENT]


def test_consent_to_data_loads_it_again(bench: Bench) -> None:
    bench.open("demo")
    bench.document.load_data(DataRequest("data.py:make"))
    bench.settle()
    assert (
        "Use and run its code"
        in bench.dialog("consent").findChild(QPushButton, "consent_accept").text()
    )
    bench.click("consent_accept")
    assert not bench.failed


def test_consent_to_data_is_not_asked_for_another_model(bench: Bench) -> None:
    bench.open("demo")
    bench.document.load_data(DataRequest("data.py:make"))
    bench.settle()
    question = bench.dialog("consent")
    with bench.qtbot.waitSignal(question.rejected):
        bench.open("other")
    assert not bench.failed


def _inputs(bench: Bench, *texts: str) -> InputsDialog:
    error = InputsNeeded("Nothing says.", details={"inputs": list(texts)})
    bench.open("net.pt2", error)
    dialog = bench.dialog("inputs")
    assert isinstance(dialog, InputsDialog)
    return dialog


def _line(dialog: QWidget, name: str, place: int = 0) -> QLineEdit:
    return dialog.findChildren(QLineEdit, name)[place]


def _type(bench: Bench, line: QLineEdit, text: str) -> None:
    line.clear()
    bench.qtbot.keyClicks(line, text)


def test_inputs_are_checked_while_they_are_typed(bench: Bench) -> None:
    dialog = _inputs(bench)
    assert dialog.inputs == (InputSpec((1, 3, 224, 224)),)
    line, accept = _line(dialog, "input_shape"), dialog.findChild(QPushButton, "inputs_accept")
    for wrong in ("1x3xa", "0x3", "99999x99999x99999"):
        _type(bench, line, wrong)
        assert not accept.isEnabled()
        assert line.property("invalid")
        assert wrong in dialog.findChild(QLabel, "inputs_message").text()
    _type(bench, line, "2x3x32x32")
    assert accept.isEnabled()
    assert dialog.inputs == (InputSpec((2, 3, 32, 32)),)
    dialog.reject()


def test_an_input_typed_in_one_piece_fills_the_fields(bench: Bench) -> None:
    dialog = _inputs(bench)
    _type(bench, _line(dialog, "input_shape"), "1x128:int64<30522")
    _line(dialog, "input_shape").editingFinished.emit()  # as when the focus goes on
    assert _line(dialog, "input_shape").text() == "1x128"
    assert dialog.findChild(QComboBox, "input_dtype").currentText() == "int64"
    assert dialog.findChild(QSpinBox, "input_below").value() == 30_522
    assert dialog.inputs == (InputSpec((1, 128), "int64", 30_522),)
    dialog.reject()


def test_batch_is_the_first_side_of_every_input(bench: Bench) -> None:
    dialog = _inputs(bench, "1x3x8x8", "1x4:int64<10")
    dialog.findChild(QSpinBox, "inputs_batch").setValue(8)
    assert [one.shape for one in dialog.inputs] == [(8, 3, 8, 8), (8, 4)]
    _type(bench, _line(dialog, "input_shape"), "5x3x8x8")
    assert dialog.findChild(QSpinBox, "inputs_batch").value() == 5
    dialog.reject()


def test_inputs_come_and_go_but_one_stays(bench: Bench) -> None:
    dialog = _inputs(bench, "1x3x8x8")
    remove = dialog.findChildren(QToolButton, "input_remove")
    assert not remove[0].isEnabled()
    dialog.findChild(QPushButton, "inputs_add").click()
    assert len(dialog.inputs) == 2
    dialog.findChildren(QToolButton, "input_remove")[0].click()
    assert dialog.inputs == (InputSpec((1, 3, 224, 224)),)
    dialog.reject()


def test_the_nearest_architecture_is_offered_with_what_differs(bench: Bench) -> None:
    bench.open("weights.safetensors", ARCHITECTURE)
    dialog = bench.dialog("architecture")
    table = dialog.findChild(QTableWidget)
    cells = [table.item(0, section).text() for section in range(3)]
    assert cells == ["resnet50", "318 of 320", "10 classes"]
    accept = dialog.findChild(QPushButton, "architecture_accept")
    assert not accept.isEnabled(), "some of its tensors differ"
    table.cellDoubleClicked.emit(0, 0)
    assert dialog.isVisible()
    differing = dialog.findChild(QPlainTextEdit, "architecture_differing")
    assert not differing.isVisible()
    dialog.findChild(QPushButton, "architecture_toggle").click()
    assert differing.isVisible()
    assert differing.toPlainText() == "fc.weight: 10×2048"
    table.setCurrentCell(1, 0)
    assert accept.text() == "Open as resnext50_32x4d"
    bench.click("architecture_accept")
    assert bench.requests[-1].architecture == "torchvision:resnext50_32x4d"


def test_when_nothing_fits_the_differences_are_there_to_see(bench: Bench) -> None:
    nearest = Candidate("torchvision:resnet18", 110, 120, ("layer4.1.conv1.weight is missing",))
    bench.open("odd.pth", ArchitectureNeeded("None.", details={"candidates": [asdict(nearest)]}))
    dialog = bench.dialog("architecture")
    assert dialog.findChild(QTableWidget).item(0, 2).text() == "Some of its tensors differ"
    assert "layer4.1.conv1.weight" in dialog.findChild(QPlainTextEdit).toPlainText()
    assert dialog.findChild(QPlainTextEdit).isVisible()
    assert not dialog.findChild(QPushButton, "architecture_accept").isEnabled()
    dialog.reject()


def test_another_architecture_or_a_factory_can_be_typed(bench: Bench) -> None:
    bench.open("weights.safetensors", ArchitectureNeeded("None.", details={"candidates": []}))
    dialog = bench.dialog("architecture")
    accept = dialog.findChild(QPushButton, "architecture_accept")
    assert not accept.isEnabled()
    _line(dialog, "architecture_other").setText("net.py:make(depth=18)")
    accept.click()
    bench.settle()
    assert bench.requests[-1].architecture == "net.py:make(depth=18)"


def test_weights_are_downloaded_or_left_out_as_the_user_says(bench: Bench) -> None:
    bench.open("torchvision:resnet50@IMAGENET1K_V2", MISSING)
    dialog = bench.dialog("weights")
    assert "download.pytorch.org" in _texts(dialog)
    assert dialog.findChild(QPushButton, "weights_accept").text() == "Download 97.8 MB"
    bench.click("weights_accept")
    assert bench.requests[-1].download
    bench.open("torchvision:resnet50@IMAGENET1K_V2", MISSING)
    bench.click("weights_random")
    assert bench.requests[-1] == OpenRequest("torchvision:resnet50")


def test_weights_of_unknown_size_are_said_to_be(bench: Bench) -> None:
    bench.open("resnet50@V2", WeightsMissing("Not here."))
    dialog = bench.dialog("weights")
    assert "unknown amount" in _texts(dialog)
    assert dialog.findChild(QPushButton, "weights_accept").text() == "Download"
    dialog.reject()


@pytest.fixture
def factory(qtbot: QtBot, theme: object) -> Callable[[str], FactoryDialog]:
    def make(where: str) -> FactoryDialog:
        dialog = FactoryDialog("Open", "Open", None, where)
        qtbot.addWidget(dialog)
        return dialog

    return make


def test_functions_of_a_file_are_listed_without_running_it(
    tmp_path: Path, factory: Callable[[str], FactoryDialog]
) -> None:
    file = tmp_path / "net.py"
    file.write_text("raise SystemExit\ndef make(): ...\nclass Net: ...\ndef _own(): ...\n")
    assert functions_of(str(file)) == ("make", "Net")
    dialog = factory(str(file))
    assert dialog.factory == f"{file}:make"
    _line(dialog, "factory_arguments").setText("depth=18, groups=(1, 2)")
    assert dialog.factory == f"{file}:make(depth=18, groups=(1, 2))"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"def broken(:", b"\0", b"(" * 5000])
def test_what_is_no_python_lists_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "net.py"
    file.write_bytes(content)
    assert functions_of(str(file)) == ()
    assert functions_of(str(tmp_path)) == ()
    assert functions_of(str(tmp_path / "missing.py")) == ()


def test_a_factory_in_one_piece_is_taken_apart(factory: Callable[[str], FactoryDialog]) -> None:
    dialog = factory("package.nets:make(depth=18)")
    assert _line(dialog, "factory_where").text() == "package.nets"
    assert dialog.findChild(QComboBox, "factory_function").currentText() == "make"
    assert _line(dialog, "factory_arguments").text() == "depth=18"


def test_arguments_are_literals_with_names(factory: Callable[[str], FactoryDialog]) -> None:
    dialog = factory("package.nets:make")
    accept = dialog.findChild(QPushButton, "factory_accept")
    assert accept.isEnabled()
    for wrong in ("18", "depth=f()", "depth=", "**x"):
        _line(dialog, "factory_arguments").setText(wrong)
        assert not accept.isEnabled(), wrong


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision:resnet50@IMAGENET1K_V2", "resnet50@IMAGENET1K_V2"),
        ("/models/net (1).pt", "net (1).pt"),
        ("nets/net.py:make(path='a/b')", "net.py:make(path='a/b')"),
        ("package.nets:make", "package.nets:make"),
    ],
)
def test_sources_have_short_names(source: str, name: str) -> None:
    assert source_name(source) == name


def test_information_can_be_read_and_copied(bench: Bench) -> None:
    model = replace(
        bench.snapshot.model,
        name=EVIL,
        notes=("This is resnet50: 320 of 320 tensors match.",),
        trained=False,
        preprocessing=Preprocessing(resize=(232,), crop=(224, 224), mean=(0.5,), std=(0.25,)),
    )
    bench.snapshot = replace(bench.snapshot, model=model)
    bench.open("demo")
    dialogs.show_information(bench.document, bench.window)
    dialog = bench.dialog("information")
    text = _texts(dialog)
    for part in ("320 of 320", "random (untrained)", "1×1×8×8 float32", "minus mean (0.5)"):
        assert part in text
    bench.click("information_copy")
    assert EVIL in QGuiApplication.clipboard().text()
    dialog.close()


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("model.safetensors.index.json", True),
        ("MODEL.INDEX.JSON", True),
        ("half.json", False),
        ("model.onnx", True),
        ("no suffix", True),
    ],
)
def test_a_file_is_opened_unless_it_is_a_recipe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, opened: bool
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(bench.document, "apply_recipe", applied.append)
    dialogs.open_path(bench.document, bench.window, f"/models/{name}")
    bench.settle()
    assert bench.requests == ([OpenRequest(f"/models/{name}")] if opened else [])
    assert applied == ([] if opened else [f"/models/{name}"])


def test_of_a_python_file_the_function_is_asked(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def make(): ...\n")
    dialogs.open_path(bench.document, bench.window, str(file))
    bench.click("factory_accept")
    assert bench.requests == [OpenRequest(f"{file}:make")]
