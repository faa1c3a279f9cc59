"""The static steps of a GPT-J that DeepSpeed has cut over two ranks: the whole model's tokens."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

PROMPT = [5, 40, 41, 200, 17, 9, 300, 77]


def run_rank(rank: int, folder: str, port: int, out: str) -> None:
    """Cut the model, step through an answer, and write it with the shape of a joined weight."""
    ranks = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"})
    import deepspeed
    import deepspeed.ops
    import torch
    from frame_python.handlers import fused_gptj
    from frame_python.handlers.graph_step import GraphStep
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no compiler needed
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = deepspeed.init_inference(
        model, dtype=torch.float32, tensor_parallel={"tp_size": 2}, replace_with_kernel_inject=False
    )
    assert fused_gptj.fuse(engine.module)
    step = GraphStep(engine.module, slots=2, max_length=64, compile_layers=False)
    tokens = [int(step.prefill(1, PROMPT).argmax())]
    while len(tokens) < 12:
        step.begin([1])
        tokens.append(step.end()[0][1])
    block = engine.module.transformer.h[0]
    Path(out, f"{rank}.json").write_text(
        json.dumps([tokens, list(block.w_in.shape), list(block.w_out.shape)])
    )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_step_to_the_tokens_of_the_whole_model(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    import torch
    import torch.multiprocessing
    from transformers import AutoModelForCausalLM

    from tests import hf_models

    folder = hf_models.make_gptj(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = torch.tensor([PROMPT])
    answer = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, args=(str(folder), port, str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [tokens for tokens, _, _ in found] == [answer[0, len(PROMPT) :].tolist()] * 2
    attn, mlp = model.transformer.h[0].attn, model.transformer.h[0].mlp
    rows = 3 * attn.q_proj.weight.shape[0] + mlp.fc_in.weight.shape[0]
    columns = attn.out_proj.weight.shape[1] + mlp.fc_out.weight.shape[1]
    assert sum(w_in[0] for _, w_in, _ in found) == rows
    assert sum(w_out[1] for _, _, w_out in found) == columns
