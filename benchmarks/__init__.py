"""Peers side by side: each workload in Mainspring and in what a user would pick instead, on this machine, in this run.

    mainspring bench gemm gpt_step --threads 2 --out results

`harness` says how a family of workloads is written and run; `FAMILIES` names those there are, each a module.
"""

FAMILIES = ("gemm", "int8_gemm", "rows", "mlp_step", "gpt_step", "cnn_step", "lstm_step", "inference", "bf16_step",
            "compile_time", "calls", "imports", "ops")
