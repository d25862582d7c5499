/* topology.h: what a network's config.json would say, from the shapes of its tensors.
 *
 * For files that come without one. Each function changes the members of o, a config.json of Stable
 * Diffusion 1.x, that the tensors of w (with canonical names) show to be otherwise; what shapes do
 * not show stays: groups of the norms, activations, and the U-Net's eight heads. What is missing
 * from w stays too, and is reported when the network is prepared. */
#pragma once
#include "names.h"
#include "weights.h"

void moji_topology(MojiPart part, MojiWeights *w, JsonObject *o);

/* How LDM's names count their blocks: fills what moji_names_new reads, from a file with LDM's names
 * under these prefixes. */
void moji_topology_ldm(MojiWeights *w, const char *unet_prefix, const char *vae_prefix,
                       MojiUnetConfig *unet, MojiVaeConfig *vae);
