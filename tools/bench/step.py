"""Step time on a CPU: a Llama-shaped model of 20.6M parameters, ours beside transformers on torch.

  python tools/bench/step.py            # some minutes
  python tools/bench/step.py --debug    # seconds, a tiny model

Both sides: the same sizes and tokens, batch 2 x 256, float32, AdamW, clipping at 1.0, on all cores,
in turns. Ours is the very step of `jaxllm train`, with segment ids as the trainer passes them;
torch is eager with SDPA attention and the fused AdamW.
"""

from __future__ import annotations

import argparse
import sys

import measure


def main() -> int:
    arguments = _arguments()
    if arguments.worker:
        {"jaxllm": _serve_jax, "torch": _serve_torch}[arguments.worker](arguments)
        return 0
    print(measure.machine("torch", "transformers"))
    rest = sys.argv[1:]
    workers = {
        name: measure.Worker((measure.PYTHON, __file__, f"--worker={name}", *rest))
        for name in ("jaxllm", "torch")
    }
    for name, worker in workers.items():
        print(f"{name:<24} {worker.facts}")
    times = measure.alternate(workers, arguments.rounds, arguments.steps)
    print(f"batch {arguments.batch} x {arguments.length}, {len(times['jaxllm'])} steps each:")
    measure.compare({"jaxllm": times["jaxllm"], "transformers, torch": times["torch"]})
    return 0


def _serve_jax(arguments: argparse.Namespace) -> None:
    import jax_side

    from jaxllm.core import devices
    from jaxllm.models.parameters import param_count
    from jaxllm.nn.compute import make_compute

    devices.start(cache=False)
    model = _model(arguments)
    ids = jax_side.random_ids(model.vocab_size, arguments.batch, arguments.length)
    training = jax_side.Training(
        model, jax_side.batch_of(ids), compute=make_compute(unroll=arguments.unroll),
        loss_chunk=arguments.loss_chunk,
    )
    measure.serve(training.step_synchronised, parameters=param_count(training.setup.specs))


def _serve_torch(arguments: argparse.Namespace) -> None:
    import jax_side
    import torch
    import torch_peer

    torch.manual_seed(0)
    config = _model(arguments)
    model = torch_peer.llama(config, config.positions.max_length)
    ids = jax_side.random_ids(config.vocab_size, arguments.batch, arguments.length)
    ids = torch.from_numpy(ids).long()
    step = torch_peer.make_step(model, jax_side.OPTIMIZER, "cpu")
    measure.serve(lambda: float(step(ids)), parameters=torch_peer.parameters(model))


def _model(arguments: argparse.Namespace):
    import dataclasses

    from jaxllm.models.config import preset

    if arguments.debug:
        return dataclasses.replace(preset("llama_debug"), vocab_size=256).completed()
    return preset("llama_21m").completed()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    parser.add_argument("--unroll", type=int, default=4, help="train.unroll")
    parser.add_argument("--loss_chunk", type=int, default=0, help="train.loss_chunk")
    parser.add_argument("--debug", action="store_true", help="a tiny model, seconds")
    parser.add_argument("--worker", choices=("jaxllm", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.debug:
        arguments.length, arguments.rounds, arguments.steps = 32, 2, 2
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
