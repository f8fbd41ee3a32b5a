"""Names of activations, architectures and studies in tables and figures."""

from common.errors import UserError

ARCHITECTURES = {
    "charlm": "CharLM",
    "minigpt": "MiniGPT",
    "nanotransformer": "NanoTransformer",
    "hybridlm": "HybridLM",
    "convlm": "ConvLM",
    "tinylstm": "TinyLSTM",
    "rnn": "RNN",
    "gru": "GRU",
    "mlp": "MLP",
    "charlm_single_head": "CharLM, single head",
    "lstm_attention": "LSTM with attention",
    "cnn": "CNN",
    "vit": "ViT",
    "image_mlp": "Image MLP",
    "gcn": "GCN",
    "gat": "GAT",
    "audio_cnn": "Audio CNN",
    "audio_transformer": "Audio transformer",
    "audio_wave": "Wave convolutions",
    "tcn": "TCN",
    "series_lstm": "Series LSTM",
    "series_transformer": "Series transformer",
    "policy_mlp": "Policy MLP",
    "policy_mlp_wide": "Policy MLP, wide",
}


def activation_label(name: str) -> str:
    """'SmeLU β=0.5' for 'smelu_05'; a user-defined activation that is not registered keeps its name."""
    import activations

    try:
        return activations.record(name).label
    except UserError:
        return name


def short_label(name: str) -> str:
    """`activation_label`, with the middle elided if it is too long for an axis."""
    label = activation_label(name)
    return label if len(label) <= 22 else f"{label[:11]}…{label[-10:]}"


def architecture_label(name: str) -> str:
    """'CharLM' for 'charlm'; a user-defined architecture keeps its name."""
    return ARCHITECTURES.get(name, name)


def study_line(results: list[dict]) -> str:
    """The second line of every title: corpus, protocol, number of trials, training steps, device, and what varied.

    >>> study_line(results)
    'Corpus: shakespeare · matched protocol · n = 10 trials · 100 training steps · cpu'
    """
    identity = results[0]["identity"]
    labels = sorted({data_facts(result)["label"] for result in results})
    totals: dict[tuple, int] = {}  # an activation's trials may be in several groups, each a result of its own
    for result in results:
        key = (result["architecture"], result["activation"], str(result["identity"]["config"]))
        totals[key] = totals.get(key, 0) + len(complete(result))
    counts = sorted(set(totals.values()))
    lost = sum(len(result["trials"]) - len(complete(result)) for result in results)
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    steps = sorted({result["identity"]["config"]["max_iters"] for result in results})
    parts = [
        f"{'Corpus' if 'corpus' in results[0] else 'Data'}: {', '.join(labels)}",
        " and ".join(sorted({result["identity"]["protocol"] for result in results})) + " protocol",
        f"n = {n} trial{'s' if n != '1' else ''}" + (" per activation" if len(results) > 1 else ""),
        " to ".join(f"{count:,}" for count in dict.fromkeys((steps[0], steps[-1]))) + " training steps",
        " and ".join(sorted({result["identity"]["device"] for result in results})),
    ]
    if set(identity["vary"]) != {"init", "data", "dropout"}:
        parts.append(f"varied: {', '.join(identity['vary']) or 'nothing'}")
    if branch := identity["config"].get("branch_step"):
        parts.append(f"branches at step {branch:,}")
    if lost:
        parts.append(f"{lost} trial{'s' if lost > 1 else ''} diverged or failed, left out of means and pairs")
    return " · ".join(parts)


def data_facts(result: dict) -> dict:
    """The record of a result's data: label, sha256 and sizes of the corpus, or of another task's data."""
    return result["corpus"] if "corpus" in result else result["task"]


def complete(result: dict) -> list[dict]:
    """The records of a result's complete trials."""
    return [trial for trial in result["trials"] if trial["status"] == "complete"]
