"""A Space that shows the report of an unlearned model, and asks it and another model the same thing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr
import parts
from models import Side, ask, load_both, sentence
from settings import PROMPTS_FILE, Question, Settings, read_questions, settings_from

from hf_unlearn.errors import HfUnlearnError, RequestError

CHAT, PLAIN = "chat template", "plain text"


def build(settings: Settings, sides: tuple[Side, Side], questions: list[Question]) -> gr.Blocks:
    """The page.

    Args:
        settings: The Space's settings.
        sides: The published model, and the one it is compared with.
        questions: Prompts to try.
    """
    report = sides[0].report
    with gr.Blocks(title=f"{settings.model_id}: unlearned") as page:
        gr.HTML(parts.header(settings.model_id, report))
        with gr.Tab("Ask both models"):
            _asking(settings, sides, parts.examples(report, questions))
        with gr.Tab("Report"):
            gr.HTML(parts.report_frame(report))
    return page.queue(max_size=32)


def _asking(settings: Settings, sides: tuple[Side, Side], examples: list[list[str]]) -> None:
    able = any(side.loaded is not None for side in sides)
    with gr.Row():
        prompt = gr.Textbox(label="Prompt", lines=2, scale=3, min_width=320, autofocus=True)
        expected = gr.Textbox(
            label="Expected answer (optional)",
            info="Both models say how probable it is.",
            scale=2,
            min_width=280,
            max_lines=1,
        )
    form = gr.Radio(
        [CHAT, PLAIN],
        value=CHAT,
        label="Asked as",
        visible=any(side.loaded is not None and side.loaded.chats for side in sides),
    )
    button = gr.Button("Ask" if able else "No model was loaded", variant="primary", interactive=able)
    shown: list[gr.components.Component] = []
    with gr.Row():
        for side in sides:
            with gr.Column(min_width=320):
                gr.HTML(parts.side_words(side))
                shown.append(
                    gr.Textbox(label="Answer", lines=4, interactive=False, buttons=["copy"], elem_classes=["answer"])
                )
                shown.append(gr.HTML(parts.chance(None)))

    def answer(prompt: str, expected: str, form: str) -> Iterator[tuple[str, ...]]:
        """Both answers; the first one is shown while the second model is asked."""
        if not prompt.strip():
            raise gr.Error("Write a prompt first.", duration=5)
        found = ["", parts.chance(None)] * 2
        for place, side in enumerate(sides):
            if side.loaded is None:
                continue
            try:
                reply = ask(
                    side.loaded,
                    prompt,
                    expected.strip(),
                    chat=form == CHAT,
                    max_new_tokens=settings.max_new_tokens,
                )
            except RequestError as error:
                raise gr.Error(sentence(error), print_exception=False) from error
            found[2 * place : 2 * place + 2] = [reply.text or "(it says nothing)", parts.chance(reply.probability)]
            yield tuple(found)

    # The models share the machine, and can be asked one question at a time, wherever it comes from.
    alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models"}
    given = [prompt, expected, form]
    gr.on([button.click, prompt.submit, expected.submit], answer, given, shown, api_name="ask", **alone)
    if examples and able:
        tried = gr.Examples(examples, inputs=[prompt, expected], label="Prompts to try")
        # Asked at once: answers that stand below a new prompt would be those to the one before.
        tried.load_input_event.then(answer, given, shown, api_visibility="private", **alone)


def refusal(error: HfUnlearnError) -> gr.Blocks:
    """A page that only says what to set."""
    with gr.Blocks(title="Unlearned model") as page:
        gr.Markdown(f"# This Space is not set up\n\n{sentence(error)}")
    return page


def page_for(variables: dict[str, str]) -> gr.Blocks:
    """The page of a Space with these variables; a page that says what is wrong with them."""
    try:
        settings = settings_from(variables)
        questions = read_questions(PROMPTS_FILE)
    except RequestError as error:
        return refusal(error)
    return build(settings, load_both(settings), questions)


if __name__ == "__main__":
    page_for(dict(os.environ)).launch(css=parts.CSS)
