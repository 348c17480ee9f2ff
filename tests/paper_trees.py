"""Small made-up trees with the names, columns and quirks of the corpora of the paper's tasks."""

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import soundfile

SPLITS = ("train", "devel", "test")
# Of the lists of each challenge: two recordings per class and split.
COVID = ("negative", "positive") * 2


def tone(path: Path, pitch: int, number: int, rate: int = 16_000, channels: int = 1) -> None:
    """Write a tone of 0.2 to 0.5 s, of another height for each class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round((0.2 + 0.3 * (number * 7 % 10) / 9) * rate)) / rate
    waveform = 0.5 * np.sin(2 * np.pi * (300 + 200 * pitch) * time + number)
    soundfile.write(path, np.stack([waveform] * channels, axis=1), rate, format="WAV")


def write_list(path: Path, lines: Iterable[str], *, end: str = "\n", bom: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = end.join((*lines, ""))
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))


def covid(root: Path, rate: int) -> list[str]:
    """Recordings and lists of a COVID-19 task with an open test; the lines of the latter."""
    lines = []
    for split in SPLITS:
        rows = [f"{split}_{i:03}.wav,{label}" for i, label in enumerate(COVID, 1)]
        write_list(root / "lab" / f"{split}.csv", ["filename,label", *rows])
        for i, label in enumerate(COVID, 1):
            tone(root / "wav" / f"{split}_{i:03}.wav", COVID.index(label), i, rate)
        lines = rows
    return lines


def ccs(folder: Path) -> None:
    """The later release: lists with a hidden test, and a table of all with the answers."""
    root = folder / "ComParE2021_CCS" / "dist"
    answers = covid(root, 16_000)
    hidden = [line.partition(",")[0] + ",?" for line in answers]
    write_list(root / "lab" / "test.csv", ["filename,label", *hidden], end="\r\n", bom=True)
    table = [f'{line},"20-29, or so",Female,None' for line in answers]
    write_list(folder / "metaData_CCS.csv", ["filename,label,Age,Sex,Medhistory", *table])
    write_list(folder / "lowSR_CCS.list", ["filename_x", "train_001.wav"])
    (root / "features").mkdir()


def css(folder: Path) -> None:
    """The package itself, with the labels of the test."""
    covid(folder / "dist", 8000)
    (folder / "dist" / "wav" / "._train_001.wav").write_bytes(b"left by a Mac")


def ess(folder: Path) -> None:
    """Labels are numbers, and those of the test are hidden; transcripts lie beside the sound."""
    for split in SPLITS:
        labels = ["0", "1", "2"] * 2
        shown = ["?"] * 6 if split == "test" else labels
        rows = [f"{split}_{i:03}.wav,{label}" for i, label in enumerate(shown, 1)]
        write_list(folder / "lab" / f"{split}.csv", ["filename,label", *rows])
        for i, label in enumerate(labels, 1):
            tone(folder / "wav" / f"{split}_{i:03}.wav", int(label), i, 44_100)
            write_list(folder / "text" / f"{split}_{i:03}.txt", ["Zo is het."])


def mpssc(folder: Path) -> None:
    """One list, separated by tabs, with a hidden test, whose labels came later."""
    labels = "VOTE" * 2
    names = [(split, i, f"{split}_{i:04}.wav") for split, i in product(SPLITS, range(1, 9))]
    rows = [f"{n}\t{'?' if split == 'test' else labels[i - 1]}" for split, i, n in names]
    answers = [f"{n}\t{labels[i - 1]}" for split, i, n in names if split == "test"]
    header = "file_name\tSnore class"
    lab = folder / "Snore_dist" / "lab"
    write_list(lab / "ComParE2017_Snore.tsv", [header, *rows], end="\r\n")
    write_list(lab / "ComParE2017_Snore_test.tsv", [header, *answers])
    for _, i, name in names:
        # The case of the disk is not that of the list.
        tone(folder / "Snore_dist" / "wav" / name.replace(".wav", ".WAV"), i % 4, i, 22_050)


def sleep(folder: Path) -> None:
    """The Karolinska Sleepiness Scale as the label, and a hidden test."""
    scale = {"train": "1789", "devel": "3698", "test": "????"}
    names = [(f"{split}_{i:04}.wav", kss) for split in SPLITS for i, kss in enumerate(scale[split])]
    root = folder / "ComParE2019_ContinuousSleepiness"
    write_list(root / "lab" / "labels.csv", ["file_name,label", *map(",".join, names)])
    for number, (name, kss) in enumerate(names):
        tone(root / "wav" / name, int(kss > "7"), number)


def demos(folder: Path) -> None:
    """Speakers 1 (train), 3 (devel) and 4 (test) with seven emotions, and neutral ones."""
    emotions = ("col", "dis", "gio", "pau", "rab", "sor", "tri")
    for (pitch, emotion), speaker, take in product(enumerate(emotions), ("01", "03", "04"), "ab"):
        kind, gender = {"a": "PR", "b": "NP"}[take], "m" if speaker == "03" else "f"
        name = f"{kind}_{gender}_{speaker}_{emotion}01{take}.wav"
        tone(folder / "wav_DEMoS" / "DEMOS" / name, pitch, int(speaker), 44_100)
    tone(folder / "wav_DEMoS" / "NEU" / "f_01_neu01a.wav", 9, 1, 44_100)
    tone(folder / "wav_DEMoS" / "NEU" / "NEU_m_03_neu01.wav", 9, 2, 44_100)
    write_list(folder / "README.txt", ["File name legend"])


def ravdess(folder: Path) -> None:
    """Actors 1 (train), 16 (devel) and 21 (test) with six emotions, speech, and a film."""
    for emotion, take, actor in product(range(1, 7), ("01", "02"), ("01", "16", "21")):
        name = f"03-02-{emotion:02}-01-{take}-01-{actor}.wav"
        tone(folder / f"Actor_{actor}" / name, emotion, int(actor), 48_000)
    tone(folder / "Actor_01" / "03-01-08-01-01-01-01.wav", 0, 1, 48_000)
    (folder / "Actor_01" / "01-02-01-01-01-01-01.mp4").write_bytes(b"a film")


def iemocap(folder: Path) -> None:
    """Five sessions; two turns of each emotion, one by each speaker, and turns of others."""
    emotions = ("ang", "hap", "exc", "neu", "sad", "fru", "xxx")
    for session in "12345":
        root = folder / "IEMOCAP_full_release" / f"Session{session}"
        dialog = f"Ses0{session}F_script01_1b"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for (i, emotion), gender in product(enumerate(emotions), "FM"):
            turn = f"{dialog}_{gender}{i:03}"
            lines += [f"[{i}.2901 - {i + 1}.2357]\t{turn}\t{emotion}\t[2.5000, 2.0000, 2.5000]"]
            lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
            tone(root / "sentences" / "wav" / dialog / f"{turn}.wav", i, i)
        write_list(root / "dialog" / "EmoEvaluation" / f"{dialog}.txt", lines, end="\r\n")
        # By one rater each, in folders of their own; and what a Mac leaves.
        write_list(root / "dialog" / "EmoEvaluation" / "Categorical" / "e1.txt", ["Ses :Anger;"])
        write_list(root / "dialog" / "EmoEvaluation" / f"._{dialog}.txt", ["\0"])


TREES: dict[str, Callable[[Path], None]] = {
    "ccs": ccs,
    "css": css,
    "demos": demos,
    "ess": ess,
    "iemocap": iemocap,
    "mpssc": mpssc,
    "ravdess": ravdess,
    "sleep": sleep,
}
