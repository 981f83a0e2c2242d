"""Recognise names of splits ('train', 'val', 'test') in folders, columns and files, in several languages."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

PLAIN_PARTS = frozenset(("train", "val", "valid", "validation", "test"))
"""Unambiguous names."""
_WORDS = {
    "train": """train training trains trn traindata tr learn learning trainings
        lern lernen lerndaten entrainement apprentissage entrenamiento entreno treino treinamento addestramento
        allenamento trainen trening treningowy обучение обучающая обучающие тренировка тренировочная тренировочные
        трейн 训练 訓練 训练用 訓練用 学習 学習用 トレーニング 训练样本 훈련 학습""",
    "val": """val valid validation validate validating vali dev devel development validierung validierungs
        validacion validacao validazione convalida validatie walidacja валидация валидационная валидационные
        проверочная проверка 验证 驗證 验证用 検証 検証用 バリデーション 검증""",
    "test": """test testing tests tst teste testes eval evaluation evaluate holdout heldout unseen
        pruefung prufung auswertung essai prueba pruebas evaluacion avaliacao prova prove verifica valutazione
        testowy тест тесты тестовая тестовые тестовый тестирование контрольная контрольные оценка
        测试 測試 测试用 測試用 テスト テスト用 評価 評価用 試験 테스트 시험 평가""",
}
"""Folded words, see `_fold`."""
# fmt: off
_FILLERS = frozenset((
    "image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos", "jpg", "jpeg",
    "png", "set", "sets", "data", "dataset", "datasets", "split", "splits", "sample", "samples", "folder", "part",
    "subset", "partition", "list", "lists", "ids", "files", "file", "names", "labels", "label", "annotations",
    "all", "final",
    "bild", "bilder", "daten", "datensatz", "satz", "menge", "fotos", "foto", "donnees", "ensemble", "jeu", "de",
    "d", "imagenes", "datos", "conjunto", "imagens", "dados", "immagini", "dati", "выборка", "данные", "набор",
    "изображения", "集", "数据", "数据集", "图片", "图像", "データ", "画像", "セット", "데이터", "이미지", "세트",
))
# fmt: on
_PART_OF = {word: part for part, words in _WORDS.items() for word in words.split()}
_NUMBER = re.compile(r"\d+|[ivx]{1,4}")


@lru_cache(maxsize=4096)
def parse_part(text: str) -> str | None:
    """'train', 'val' or 'test' for a name with exactly that meaning, such as 'Testing', 'held_out',
    'test_images', 'train1' or 'Prüfung'; None for any other name."""
    words = [word for word in _split_words(text) if word not in _FILLERS]
    if len(words) == 2 and _NUMBER.fullmatch(words[1]):
        words.pop()
    joined = "".join(words)
    return _PART_OF.get(joined) or _PART_OF.get(_cut_fillers(joined))


def hints_at_part(text: str) -> str | None:
    """The split that a name mentions among other words, as in 'my_old_test'; None for none or two."""
    found = {_PART_OF.get(word) or _PART_OF.get(_cut_fillers(word)) for word in _split_words(text)} - {None}
    return found.pop() if len(found) == 1 else None


def is_filler(name: str) -> bool:
    """Whether a folder's name says nothing about its content, such as 'images' or 'data'."""
    return all(word in _FILLERS for word in _split_words(name))


def _split_words(text: str) -> list[str]:
    """Words in folded form: cut at spaces, marks, digits and where capitals begin."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return re.findall(r"\d+|[^\W\d_]+", _fold(apart))


def _fold(text: str) -> str:
    """Lower case without accents on Latin letters, so that 'Validación' and 'VALIDACION' are one."""
    composed = unicodedata.normalize("NFKC", text).casefold()
    kept = []
    for char in composed:
        plain = unicodedata.normalize("NFD", char)
        kept.append(plain[0] if plain[0].isascii() else char)
    return "".join(kept)


def _cut_fillers(word: str) -> str:
    """The word without fillers written together with it: 'testset' -> 'test', '测试集' -> '测试'."""
    for filler in sorted(_FILLERS, key=len, reverse=True):
        if len(filler) > 1 or not filler.isascii():
            for rest in (word.removesuffix(filler), word.removeprefix(filler)):
                if rest != word and rest in _PART_OF:
                    return rest
    return word
