"""Small made-up trees laid out as open corpora are: a few tones and noises with the same names."""

import io

import numpy as np
import soundfile

EMODB_SPEAKERS = ("03", "08", "10", "16")
CREMAD_ACTORS = ("1001", "1002", "1040", "1076")
SPLIT_COUNTS = {"train": 3, "dev": 2, "test": 2}


def sound(seed, rate, seconds=0.3, pitch=440):
    """(num_samples,): a tone that differs by the seed."""
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (pitch + 7 * seed) * time)).astype(np.float32)


def save(path, *, seed, rate=16_000, seconds=0.3, pitch=440):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(seed, rate, seconds, pitch), rate)
    return path


def folders(folder):
    for label, pitch in (("high", 2000), ("low", 300)):
        for i in range(5):
            save(folder / label / f"{i}.wav", seed=i, pitch=pitch)


def esc50(folder):
    """Each fold has two clips of one source and one of another, for each of two classes."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category, esc10 in ((0, "dog", "True"), (14, "chirping_birds", "False")):
            for source, take in (("1", "A"), ("1", "B"), ("2", "A")):
                clip = f"{fold}{target:02d}{source}"
                name = f"{fold}-{clip}-{take}-{target}.wav"
                seed = len(rows)
                save(folder / "audio" / name, seed=seed, rate=44_100, pitch=500 + 100 * target)
                rows.append(f"{name},{fold},{target},{category},{esc10},{clip},{take}")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "meta" / "esc50-human.xlsx").write_bytes(b"PK")
    (folder / "README.md").write_text("## ESC-50\n", encoding="utf-8")


def speech_commands(folder):
    """Five speakers, of whom one is in validation_list.txt and one in testing_list.txt."""
    lists = {"4": [], "5": []}
    for word, pitch in (("yes", 300), ("go", 900), ("bed", 1800)):
        for speaker in "12345":
            for take in range(2):
                name = f"{word}/0000000{speaker}_nohash_{take}.wav"
                save(folder / name, seed=int(speaker) + 9 * take, pitch=pitch)
                lists.get(speaker, []).append(name)
    (folder / "validation_list.txt").write_text("\n".join(lists["4"]) + "\n", encoding="utf-8")
    (folder / "testing_list.txt").write_text("\n".join(lists["5"]) + "\n", encoding="utf-8")
    for i, name in enumerate(("running_tap", "exercise_bike", "white_noise")):
        save(folder / "_background_noise_" / f"{name}.wav", seed=i, seconds=2.5, pitch=40)
    (folder / "_background_noise_" / "README.md").write_text("Noise.\n", encoding="utf-8")
    (folder / "LICENSE").write_text("CC BY 4.0\n", encoding="utf-8")


def emodb(folder):
    for speaker in EMODB_SPEAKERS:
        for letter, pitch in (("W", 900), ("N", 300)):
            for text, version in (("a01", "a"), ("b10", "b")):
                name = f"{speaker}{text}{letter}{version}.wav"
                save(folder / "wav" / name, seed=int(speaker), pitch=pitch)
    for extra in ("lablaut", "silb"):
        (folder / extra).mkdir()
        (folder / extra / "03a01Wa.lab").write_text("", encoding="utf-8")
    (folder / "erkennung.txt").write_text("Satz\terkannt\n", encoding="latin-1")


def cremad(folder):
    """With the name that lacks an X, the silent recording, and the compressed copies."""
    for actor in CREMAD_ACTORS:
        for emotion, pitch in (("ANG", 900), ("SAD", 300)):
            for sentence, level in (("ITH", "X" if actor == "1040" else "XX"), ("IEO", "HI")):
                name = f"{actor}_{sentence}_{emotion}_{level}.wav"
                save(folder / "AudioWAV" / name, seed=int(actor) - 1000, pitch=pitch)
    soundfile.write(folder / "AudioWAV" / "1076_MTI_SAD_XX.wav", np.zeros(4800), 16_000)
    (folder / "AudioMP3").mkdir()
    (folder / "AudioMP3" / "1001_ITH_ANG_XX.mp3").write_bytes(b"ID3")
    (folder / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n"
        "1001,51,Male,Caucasian,Not Hispanic\n"
        "1002,21,Female,African American,Not Hispanic\n",
        encoding="utf-8",
    )


def audformat(folder, families=("emotion",)):
    """Splits as tables of parts of files; tables of whole files tell who speaks, and everything."""
    import audformat

    database = audformat.Database("made-up")
    database.schemes["emotion"] = audformat.Scheme(labels=["anger", "neutral"])
    database.schemes["speaker"] = audformat.Scheme("int", labels={1: {}, 2: {}, 3: {}})
    database.schemes["arousal"] = audformat.Scheme("float")
    files, speakers = [], []
    for speaker, (split, count) in enumerate(SPLIT_COUNTS.items(), 1):
        database.splits[split] = audformat.Split(split)
        names = [f"wav/{split}-{i}.wav" for i in range(count)]
        for i, name in enumerate(names):
            save(folder / name, seed=10 * speaker + i, rate=8000, seconds=1.0)
        files += names
        speakers += [speaker] * count
        # Two parts of each file; the second to its end.
        twice = [name for name in names for _ in range(2)]
        index = audformat.segmented_index(twice, [0.0, 0.5] * count, [0.5, None] * count)
        for family in families:
            table = audformat.Table(index, split_id=split)
            database[f"{family}.categories.{split}.gold_standard"] = table
            table["emotion"] = audformat.Column(scheme_id="emotion")
            table["emotion"].set(["anger", "neutral"] * count)
            table["arousal"] = audformat.Column(scheme_id="arousal")
            # The second file of each split has none.
            table["arousal"].set([0.25, 0.75, None, None, 0.5, 1.0][: 2 * count])
    for name, column, values in (
        ("files", "speaker", speakers),
        ("emotion", "emotion", ["anger"] * len(files)),
    ):
        database[name] = audformat.Table(audformat.filewise_index(files))
        database[name][column] = audformat.Column(scheme_id=column)
        database[name][column].set(values)
    database.save(str(folder))


def audio_cell(seed, pitch, path):
    """A recording inside of a data set of Hugging Face, as WAV."""
    content = io.BytesIO()
    soundfile.write(content, sound(seed, 8000, pitch=pitch), 8000, format="WAV")
    return {"bytes": content.getvalue(), "path": path}


def hugging_face_splits():
    """A DatasetDict with recordings as bytes, class labels, several tags, and speakers."""
    import datasets

    tags = datasets.ClassLabel(names=["loud", "clean"])
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.Sequence(tags),
            "speaker_id": datasets.Value("int64"),
            "path": datasets.Value("string"),
            "embedding": datasets.Sequence(datasets.Value("float32")),
        }
    )
    parts = {}
    names = {"train": "train", "dev": "validation", "test": "test"}
    for speaker, (split, count) in enumerate(SPLIT_COUNTS.items()):
        labels = [i % 2 for i in range(2 * count)]
        rows = {
            "audio": [
                audio_cell(10 * speaker + i, 300 + 600 * x, f"{i}.wav")
                for i, x in enumerate(labels)
            ],
            "label": labels,
            "tags": [[0, 1] if x else [1] for x in labels],
            "speaker_id": [speaker] * len(labels),
            "path": ["/nowhere/x.mp3"] * len(labels),
            "embedding": [[0.5, 0.5]] * len(labels),
        }
        part = datasets.Dataset.from_dict(rows, features=features)
        # So, and not by the features above: encoding would need torchcodec.
        parts[names[split]] = part.cast_column("audio", datasets.Audio())
    return datasets.DatasetDict(parts)


def hugging_face(folder):
    hugging_face_splits().save_to_disk(str(folder))


TREES = {
    "audformat": audformat,
    "cremad": cremad,
    "emodb": emodb,
    "esc50": esc50,
    "folders": folders,
    "hugging_face": hugging_face,
    "speech_commands": speech_commands,
}
