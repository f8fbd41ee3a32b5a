"""Claims about tasks of arrays: a data set that models or metrics could not use is refused by name, before training."""

import numpy as np
import pytest

from common.errors import UserError
from tasks.arrays import ArrayTask, Split


def split(n=6, dtype=np.int64, targets=None):
    y = np.arange(n)[:, None] % 3 if targets is None else np.asarray(targets)
    return Split(np.ones((n, 4), np.float32), y.astype(dtype))


def made(train, validation):
    return ArrayTask("wine", train, validation, 3)


def test_a_data_set_of_the_right_form_is_accepted():
    assert made(split(), split(3)).model_sizes == {"shape": [4], "n_classes": 3}


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        (split(targets=np.arange(6) % 3), split(), "training split of wine cannot be used: targets must be an"),
        (split(dtype=np.int32), split(), "not (6, 1) of int32"),
        (
            split(),
            split()._replace(inputs=np.ones((5, 4))),
            "validation split of wine cannot be used: there are 5 inputs",
        ),
        (split(), split(targets=np.full((6, 1), 3)), "classes must be from 0 to 2, but they are from 3 to 3"),
        (split(0), split(), "it is empty"),
        (split()._replace(inputs=np.full((6, 4), np.nan)), split(), "inputs are not all finite"),
    ],
)
def test_one_that_could_not_be_used_is_refused_in_one_sentence(train, validation, says):
    with pytest.raises(UserError) as caught:
        made(train, validation)
    assert says in str(caught.value) and "\n" not in str(caught.value)
