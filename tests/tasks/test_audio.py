"""Claims about spoken digits: how recordings become inputs, and every check of the architectures for them."""

import io
import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import studies
import torch
from finite_differences import hessian_error_of_task
from grids import grid

import train
from architectures.checks import check
from architectures.recordings import STRIDE
from architectures.registry import ARCHITECTURES, architectures_of, build_model, initialize
from config_cpu import ConfigCPU
from tasks import audio
from tasks.arrays import Split
from tasks.registry import load_task

NAMES = architectures_of("audio")


def wav(samples) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, audio.RATE, 0, "NONE", ""))
        writer.writeframes(np.asarray(samples, "<i2").tobytes())
    return file.getvalue()


def archive(recordings, prefix="", compression=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        writer.writestr(f"{prefix}README.md", "about them")
        for name, content in recordings.items():
            writer.writestr(f"{prefix}recordings/{name}", content)
    return file.getvalue()


TONES = {
    f"{digit}_ann_{number}.wav": wav(3000 * np.sin(2 * np.pi * (300 + 500 * digit) * np.arange(4000) / audio.RATE))
    for digit in (0, 1)
    for number in (2, 4, 5, 17)
}


@pytest.fixture
def tones(monkeypatch, tmp_path):
    """The task with eight tones in place of the recordings."""
    (tmp_path / "tones.zip").write_bytes(archive(TONES))
    known = studies.replace(audio.DIGITS, sha256=audio.digest(archive(TONES)))
    monkeypatch.setattr(audio, "DIGITS", known)
    monkeypatch.setenv("CHARLM_SPOKEN_DIGITS", str(tmp_path / "tones.zip"))
    return load_task("audio")


@pytest.fixture(scope="module")
def small():
    """A task of shorter recordings of noise, each class with a spectrum of its own."""
    rng = np.random.default_rng(0)
    y = np.arange(24)[:, None] % 3
    features = rng.standard_normal((24, 4, 5)) + 2 * np.eye(5)[y[:, 0], None]
    waves = np.sin((1 + y) * np.arange(6 * STRIDE) / 4) + 0.1 * rng.standard_normal((24, 6 * STRIDE))
    split = Split(np.concatenate([waves, features.reshape(24, -1)], axis=1).astype(np.float32), y)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SAMPLES", 6 * STRIDE), ("FRAMES", 4), ("MELS", 5)):
            patch.setattr(audio, name, value)
        return audio.Audio("noise", split, split, 3)


# --- data -------------------------------------------------------------------------------------------------------------


def test_the_first_five_recordings_of_each_digit_and_speaker_are_the_validation_split(tones):
    assert (tones.facts()["n_train"], tones.facts()["n_validation"]) == (4, 4)
    assert tones.targets("validation", None)[:, 0].tolist() == [0, 0, 1, 1]


def test_the_digest_is_of_the_recordings_not_of_how_they_are_packed():
    known = audio.digest(archive(TONES))
    packed_otherwise = archive(dict(reversed(TONES.items())), "folder-26eb9aa/", zipfile.ZIP_DEFLATED)
    assert audio.digest(packed_otherwise) == known
    changed = TONES | {"0_ann_2.wav": TONES["0_ann_4.wav"][:-1] + b"\1"}
    assert audio.digest(archive(changed)) != known
    assert audio.digest(archive({("2" + name[1:]): content for name, content in TONES.items()})) != known
    assert audio.digest(b"no archive") != known


def test_recordings_are_equally_loud_and_padded_or_cut_off_at_the_end():
    samples = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    short, long = audio.at_equal_length(samples, 12), audio.at_equal_length(samples, 6)
    assert np.mean(short[:9] ** 2) == pytest.approx(1) and not short[9:].any()
    np.testing.assert_allclose(long, samples[:6] / np.sqrt(np.mean(samples[:6] ** 2)), rtol=1e-6)
    np.testing.assert_allclose(audio.at_equal_length(5 * samples, 12), short, rtol=1e-5)
    np.testing.assert_allclose(audio.samples_of(wav([0, 2**14, -(2**15)])), [0, 0.5, -1])


def test_the_filters_are_triangles_evenly_spaced_on_the_mel_scale():
    filters = audio.mel_filters(10, 8000, 8000)  # a bin per Hz
    centres = filters.argmax(axis=1)
    mel = 2595 * np.log10(1 + np.append(centres, 4000) / 700)
    np.testing.assert_allclose(np.diff(mel), mel[0], rtol=0.01)
    np.testing.assert_allclose(filters.max(axis=1), 1, atol=0.02)
    between = slice(centres[0] + 1, centres[-1])
    np.testing.assert_allclose(filters.sum(axis=0)[between], 1, atol=1e-9)  # neighbours complement each other
    assert (audio.mel_filters(audio.MELS, audio.WINDOW, audio.RATE).sum(axis=1) > 0.5).all()  # no band is empty


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loudest_in_the_band_that_holds_it(hertz):
    tone = np.sqrt(2) * np.sin(2 * np.pi * hertz * np.arange(audio.SAMPLES) / audio.RATE).astype(np.float32)
    features = audio.log_mel(tone[None])[0]
    assert features.shape == (audio.FRAMES, audio.MELS)
    mel = 2595 * np.log10(1 + hertz / 700) / (2595 * np.log10(1 + audio.RATE / 2 / 700)) * (audio.MELS + 1) - 1
    assert abs(features[:-1].mean(axis=0).argmax() - mel) < 1


def test_features_are_standardized_by_the_training_split(tones):
    x, _ = tones.splits["train"]
    features = x[:, audio.SAMPLES :].reshape(len(x), audio.FRAMES, audio.MELS)
    np.testing.assert_allclose(features.mean(axis=(0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(axis=(0, 1)), 1, atol=1e-3)


NAMED = Path(os.environ.get("CHARLM_SPOKEN_DIGITS", studies.ROOT / "data" / "free-spoken-digit-dataset.zip"))


@pytest.mark.skipif(not NAMED.exists(), reason="no spoken digits here: CHARLM_SPOKEN_DIGITS is not set")
def test_the_data_set_has_30_recordings_of_each_digit_for_validation_and_270_for_training(monkeypatch):
    monkeypatch.setenv("CHARLM_SPOKEN_DIGITS", str(NAMED))
    task = load_task("audio")
    for split, count in (("train", 270), ("validation", 30)):
        assert np.bincount(task.splits[split].targets[:, 0]).tolist() == [count] * 10
    assert task.splits["train"].inputs.shape == (2700, audio.SAMPLES + audio.FRAMES * audio.MELS)


@pytest.mark.skipif(not NAMED.exists(), reason="no spoken digits here: CHARLM_SPOKEN_DIGITS is not set")
def test_a_study_of_recordings_is_trained_and_verified(tmp_path):
    done, verified = studies.trained_and_verified("audio", "audio_cnn", 2, tmp_path)
    assert done.status == 0 and "audio spoken_digits, cpu, 2 steps" in done.out, done.out + done.err
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err


# --- architectures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "activation"), grid("audio", "audio_transformer"))
def test_an_architecture_with_an_activation_passes_every_check(architecture, activation, small):
    """The activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU(n_layer=1), small) == []


@pytest.mark.parametrize("architecture", NAMES)
def test_an_architecture_takes_either_the_wave_or_the_features(architecture, small):
    config = ConfigCPU(n_embd=8, n_head=2)
    model = initialize(build_model(architecture, "mish", config, small.model_sizes), 1)
    x = torch.from_numpy(small.splits["train"].inputs)
    takes_wave, samples = architecture == "audio_wave", 6 * STRIDE
    for start, end, seen in ((0, samples, takes_wave), (samples, None, not takes_wave)):
        other = x.clone()
        other[:, start:end] += 1
        assert torch.equal(model(other), model(x)) != seen
    expected = ARCHITECTURES[architecture].n_activations(config)
    assert sum(isinstance(module, torch.nn.Mish) for module in model.modules()) == expected
    assert STRIDE >= 64


@pytest.mark.parametrize("architecture", NAMES)
def test_a_trial_that_was_interrupted_ends_with_the_same_bits(architecture, small, tmp_path):
    trial = studies.a_trial(architecture=architecture, dropout=0.2)
    expected = train.run_trial(trial, small)
    studies.assert_same(studies.interrupted_and_resumed(trial, small, tmp_path), expected)


@pytest.mark.parametrize("architecture", NAMES)
def test_hessian_products_are_finite_differences_of_gradients(architecture, small):
    assert hessian_error_of_task(architecture, small, ConfigCPU(n_layer=1, n_embd=8, n_head=2)) < 1e-4
