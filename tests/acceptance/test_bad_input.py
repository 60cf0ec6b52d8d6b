"""Bad input gets a clear answer at once: never a 500, never a hang."""

import pytest

PROMPT = {"prompt": "a red circle on white"}


@pytest.mark.parametrize(
    ("slug", "body", "status", "names"),
    [
        ("marquee/unknown", PROMPT, 404, "marquee/unknown"),
        ("marquee/shapes", {}, 422, "prompt"),
        ("marquee/shapes", {"prompt": 5}, 422, "prompt"),
        ("marquee/shapes", PROMPT | {"num_inference_steps": 100000}, 422, "num_inference_steps"),
        ("marquee/shapes", PROMPT | {"num_inference_steps": "many"}, 422, "num_inference_steps"),
        ("marquee/shapes", PROMPT | {"image_size": {"width": -8, "height": 64}}, 422, "width"),
        ("marquee/shapes", PROMPT | {"image_size": "gigantic"}, 422, "image_size"),
        ("marquee/shapes", PROMPT | {"loras": [{"path": "nobody/nothing"}]}, 422, "nobody/nothing"),
        ("marquee/shapes", PROMPT | {"loras": [{"scale": 1}]}, 422, "path"),
        ("marquee/shapes", PROMPT | {"seed": -1}, 422, "seed"),
        ("marquee/shapes", ["a list"], 422, "object"),
    ],
)
@pytest.mark.parametrize("door", ["run", "queue"])
def test_the_answer_names_what_is_wrong(marquee, door, slug, body, status, names):
    with marquee.client() as client:
        response = client.post(f"/fal/{door}/{slug}", json=body)
    assert response.status_code == status, response.text
    assert names in response.text
    if status == 422:
        assert all({"loc", "msg", "type"} <= set(problem) for problem in response.json()["detail"])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null"])
def test_what_is_no_json_object_is_refused(marquee, body):
    with marquee.client() as client:
        response = client.post(
            "/fal/run/marquee/shapes", content=body, headers={"Content-Type": "application/json"}
        )
    assert response.status_code in {400, 422}, response.text


def test_an_oversized_body_is_refused(marquee):
    with marquee.client() as client:
        response = client.post("/fal/run/marquee/shapes", json={"prompt": "x" * (20 << 20)})
    assert response.status_code == 413, response.text[:500]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Key mq_nobody"}, {"Authorization": "Basic abc"}])
def test_without_a_key_nothing_runs(marquee, headers):
    with marquee.client(key=None) as client:
        response = client.post("/fal/run/marquee/shapes", json=PROMPT, headers=headers)
    assert response.status_code == 401
    assert response.json()["detail"]
