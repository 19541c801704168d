"""Training-free conversion of grouped attention with QK-norm (Qwen3-VL) to latent attention (M2LA).

The pipeline, in order:

    statistics          one pass of the source model: second moments of the attention inputs
    partial_sums        checkpoints of that pass
    method              the options of a conversion
    qk_norm             approximation 1: QK-norm and projection become one affine map
    rotation            approximation 2: only one virtual key head keeps its rope
    mean_rotation       a constant in place of the rope of the other heads
    weighting           the metric of the compression
    compression         approximation 3: keys and values share a latent; ranks under a budget
    shared_latent       approximations 2 and 3 combined
    latent_layer        the result as M2LA, or as m2la_exact, which keeps norm and rope
    layer               converts one layer
    convert             converts all layers from one pass
    output_projection   refits o_proj in closed form to recover part of the loss
    sequential          converts layer by layer on the converted inputs
    steps               the intermediate models, to measure each approximation
    lossless_bfloat16   holds the source in half the memory

After the pass, everything is float64 linear algebra on its sums, on the host. The gradient-based
refinement is a stage, `ivx.stages.attention_matching`. docs/conversion.md has the derivation.
"""
