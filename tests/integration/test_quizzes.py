"""The pages: the quizzes, taking one, and the result."""

import re
from http import HTTPStatus

import sqlalchemy as sa

from app.quizzes.models import Attempt, Question, Quiz
from tests.application import World


def attempts(world: World) -> list[Attempt]:
    with world.session() as session:
        return list(session.scalars(sa.select(Attempt).order_by(Attempt.id)))


def words(page: str) -> str:
    """What is written on it."""
    return " ".join(re.sub(r"<[^>]*>", " ", page.partition("<main")[2]).split())


def test_the_quizzes_by_subject_and_how_one_did(world: World) -> None:
    rivers, _, primes = world.quiz("Rivers", "Geography"), world.quiz("Cities", "Geography"), world.quiz("Primes")
    world.quiz("Empty", questions=0)
    ada, bob = world.user("ada"), world.user("bob")
    world.attempt(ada, rivers, 1)
    world.attempt(ada, rivers, 3)
    world.attempt(bob, primes, 4)
    page = words(world.client(ada).get("/quizzes/").text)
    assert "1 taken 3 available 50% average" in page
    assert "Quiz Questions Your best Geography Cities 4 – Rivers 4 75% Mathematics" in page  # noqa: RUF001
    assert "Empty none yet – Primes 4 –" in page  # noqa: RUF001


def test_no_quizzes(sqlite_world: World) -> None:
    assert "There are no quizzes yet." in sqlite_world.client(sqlite_world.user()).get("/quizzes/").text


def test_a_quiz_is_taken_and_its_result_shown(world: World) -> None:
    quiz, ada = world.quiz("Primes"), world.user("ada")
    client = world.client(ada)
    form = client.get(f"/quizzes/{quiz.id}").text
    assert form.count("<fieldset>") == 4
    assert form.count('type="radio"') == 16
    answer = client.post(f"/quizzes/{quiz.id}", data={"question-0": "0", "question-1": "2", "question-3": "0"})
    assert answer.status_code == HTTPStatus.SEE_OTHER
    (kept,) = attempts(world)
    assert answer.location == f"/attempts/{kept.id}"
    assert (kept.user_id, kept.correct, kept.questions, kept.choices) == (ada.id, 2, 4, [0, 2, None, 0])
    page = words(client.get(answer.location).text)
    assert "2 of 4 right" in page
    assert (
        "Question 0? right right Question 1? wrong b Right: right "
        "Question 2? wrong not answered Right: right Question 3? right right" in page
    )


def test_a_result_stays_readable_when_its_quiz_has_changed(world: World) -> None:
    quiz, ada = world.quiz(), world.user("ada")
    taken = world.attempt(ada, quiz, 1, choices=[3, 0, None, 9])
    with world.session() as session:
        session.execute(sa.delete(Question).where(Question.position > 1))
        session.execute(sa.update(Question).values(choices=["right", "wrong"]))
    page = words(world.client(ada).get(f"/attempts/{taken.id}").text)
    assert "1 of 4 right" in page
    assert "Question 0? wrong a choice that is there no more Right: right Question 1? right" in page


FORGED = ("4", "-1", "\N{ARABIC-INDIC DIGIT ZERO}", "00", "", "0; DROP", ["0", "1"])


def test_a_forged_choice_is_refused_and_nothing_kept(sqlite_world: World) -> None:
    quiz, client = sqlite_world.quiz(), sqlite_world.client(sqlite_world.user())
    for forged in FORGED:
        answer = client.post(f"/quizzes/{quiz.id}", data={"question-0": forged, "question-1": "0"})
        assert answer.status_code == HTTPStatus.BAD_REQUEST, forged
        assert "Nothing was kept: question-0=" in answer.text
        assert "choose one of 0 to 3, or none" in answer.text
    assert not attempts(sqlite_world)


def test_a_quiz_without_questions_cannot_be_taken(sqlite_world: World) -> None:
    quiz = sqlite_world.quiz(questions=0)
    client = sqlite_world.client(sqlite_world.user())
    assert "This quiz has no questions yet." in client.get(f"/quizzes/{quiz.id}").text
    answer = client.post(f"/quizzes/{quiz.id}")
    assert answer.status_code == HTTPStatus.CONFLICT
    assert "cannot be taken" in answer.text
    assert not attempts(sqlite_world)


def test_what_is_not_there_and_what_is_anothers_is_not_found(world: World) -> None:
    taken = world.attempt(world.user("ada"), world.quiz())
    client = world.client(world.admin("eve"))
    largest = [f"/{room}/{2**bits - less}" for room in ("quizzes", "attempts") for bits in (31, 63) for less in (0, 1)]
    for path in (f"/attempts/{taken.id}", "/attempts/99", "/quizzes/99", *largest):
        assert client.get(path).status_code == HTTPStatus.NOT_FOUND, path
    assert client.post("/quizzes/99").status_code == HTTPStatus.NOT_FOUND


def test_what_somebody_wrote_is_text(sqlite_world: World) -> None:
    quiz = sqlite_world.quiz("<script>title</script>", "<script>subject</script>")
    with sqlite_world.session() as session:
        session.execute(sa.update(Quiz).values(description="<script>lead</script>"))
        session.execute(sa.update(Question).values(text="<script>q</script>", choices=["<script>c</script>"]))
    ada = sqlite_world.user("ada")
    taken = sqlite_world.attempt(ada, quiz, choices=[None, 0, 0, 0])
    for path in ("/quizzes/", f"/quizzes/{quiz.id}", f"/attempts/{taken.id}"):
        page = sqlite_world.client(ada).get(path).text
        assert "&lt;script&gt;title" in page
        assert not re.search(r"<script>\w+</script>", page)
    refused = sqlite_world.client(ada).post(f"/quizzes/{quiz.id}", data={"question-0": "<script>x</script>"})
    assert "<script>x" not in refused.text


def test_a_form_without_its_token_is_refused(sqlite_world: World) -> None:
    quiz, client = sqlite_world.quiz(), sqlite_world.client(sqlite_world.user())
    sqlite_world.app.config.update(WTF_CSRF_ENABLED=True)
    assert client.post(f"/quizzes/{quiz.id}", data={"question-0": "0"}).status_code == HTTPStatus.BAD_REQUEST
    assert 'name="csrf_token" value="' in client.get(f"/quizzes/{quiz.id}").text
