"""From grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA), without training.

    statistics     one pass of the original model: second moments of what goes into attention
    affine, fold   queries and keys become linear in x                     approximation 1
    rotation       the keys' energy moves into one virtual head, which
                   alone keeps its rope; turns: what stands for it
                   on the others                                           approximation 2
    compression    the other keys and the values share a latent;
                   weighting: what is near                                 approximation 3
    shared_latent  2 and 3 together; latent_layer: in the released parameterization
    method         which of these choices a conversion takes
    one_layer      a layer by these; convert: all layers of a model
    exact_layer    or with norm and rope as they were
    ranks          latents of unequal width under a budget
    sequential     layer by layer on converted inputs; polish: o_proj in closed form
    steps          the models between, to measure what each approximation costs

Everything after the pass is linear algebra on its sums, in float64 on the host. What training then
adds is a stage, `ivx.stages.attention_matching`. The derivation is in docs/conversion.md.
"""
