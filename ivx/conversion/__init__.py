"""From grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA), without training.

    statistics    one pass of the original model: second moments of what goes into attention
    qk_norm       queries and keys become affine in x                     approximation 1
    rotation      the keys' energy moves into one virtual head, which
                  alone keeps its rope                                    approximation 2
    compression   the other keys and the values share a latent            approximation 3
    latent_layer  2 and 3 together, in the released parameterization
    convert       all layers of a model
    steps         the models between, to measure what each approximation costs

Everything after the pass is linear algebra on its sums, in float64 on the host. What training then
adds is a stage, `ivx.stages.attention_matching`.
"""
