import pytest

from keras_efficientnet.data.splits import split_of

SPELLINGS = {
    "train": "train training trainset train_set training_set seg_train TRAIN Training-Data "
    "train2017 trainval",
    "val": "val valid validation dev eval Validation_Set VAL dev-set",
    "test": "test testing test_set seg_test Testing testdata test.images test1",
    None: "tested trained trainer validity valley contest pred unlabelled evaluator t",
}


@pytest.mark.parametrize(
    ("split", "name"),
    [(split, name) for split, names in SPELLINGS.items() for name in names.split()],
)
def test_names_of_splits_in_any_case_and_usual_spelling(split, name):
    assert split_of(name) == split
