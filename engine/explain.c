/* explain.c: a tape as text, one line a record: the first thing to read when a network misbehaves,
 * and what golden tests compare. Works before planning too; offsets are then "-". */
#include "tape_private.h"

#define MIB (1024.0 * 1024.0)

/* "[2,64,64,320] [2,64,64,4]": what the record reads, parameters left out. */
static void append_inputs(GString *line, const MojiRecord *r)
{
    char shape[96];
    gboolean any = FALSE;
    for (int k = 0; k < MOJI_MAX_INPUTS; k++) {
        if (!r->in[k] || r->in[k]->kind == MOJI_PARAMETER)
            continue;
        g_string_append_printf(line, "%s%s", any ? " " : "",
                               moji_tensor_shape(r->in[k], shape, sizeof shape));
        any = TRUE;
    }
}

/* "3x3 stride 2", "8 heads causal": what else decides the result. Caller frees. */
static char *details(const MojiTape *tape, const MojiRecord *r)
{
    GString *s = g_string_new(NULL);
    const MojiAttr *a = &r->attr;
    if (r->op == MOJI_OP_CONV2D) {
        g_string_append_printf(s, " %dx%d", a->conv.kernel, a->conv.kernel);
        if (a->conv.stride != 1)
            g_string_append_printf(s, " stride %d", a->conv.stride);
        if (a->conv.pad_begin != a->conv.pad_end)
            g_string_append_printf(s, " pad %d %d", a->conv.pad_begin, a->conv.pad_end);
    } else if (r->op == MOJI_OP_GROUP_NORM) {
        g_string_append_printf(s, " %d groups%s", a->norm.groups, a->norm.silu ? " silu" : "");
    } else if (r->op == MOJI_OP_ATTENTION) {
        g_string_append_printf(s, " %d heads%s", a->attention.heads,
                               a->attention.causal ? " causal" : "");
    } else if (r->op == MOJI_OP_SCALE) {
        g_string_append_printf(s, " by %g", a->scale.by);
    }
    if ((r->op == MOJI_OP_CONV2D || r->op == MOJI_OP_LINEAR) && r->in[3])
        g_string_append(s, " + residual");
    if (tape->planned && moji_op_in_place(r->op) && r->in[0]->offset == r->out->offset)
        g_string_append(s, " in place");
    return g_string_free(s, FALSE);
}

static void append_record(GString *text, MojiTape *tape, int i)
{
    MojiRecord *r = moji_tape_record(tape, i);
    char shape[96], offset[32] = "-";
    g_autoptr(GString) inputs = g_string_new(NULL);
    g_autofree char *more = details(tape, r);
    append_inputs(inputs, r);
    if (tape->planned)
        g_snprintf(offset, sizeof offset, "@%" G_GSIZE_FORMAT, r->out->offset);
    g_string_append_printf(text, "%4d %-10s %s -> %s %s %s%s%s%s\n", i, moji_op_name(r->op),
                           inputs->str, moji_tensor_shape(r->out, shape, sizeof shape),
                           moji_type_name(r->out->type), offset, r->name[0] ? " " : "", r->name,
                           more);
}

/* "input sample [2,64,64,4] f32 @0" for every tensor that the caller writes or reads. */
static void append_ends(GString *text, MojiTape *tape)
{
    char shape[96];
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        gboolean input = t->kind == MOJI_INPUT && !t->view_of;
        if (!input && !t->output)
            continue;
        g_string_append_printf(text, "%s%s%s%s %s %s", input && t->steady ? "steady " : "",
                               input ? "input" : "output", t->name ? " " : "",
                               t->name ? t->name : "", moji_tensor_shape(t, shape, sizeof shape),
                               moji_type_name(t->type));
        if (tape->planned)
            g_string_append_printf(text, " @%" G_GSIZE_FORMAT, t->offset);
        g_string_append_c(text, '\n');
    }
}

char *moji_tape_explain(MojiTape *tape)
{
    GString *text = g_string_new(NULL);
    int parameters = 0;
    gint64 numbers = 0;
    for (int i = 0; i < moji_tape_length(tape); i++) {
        append_record(text, tape, i);
        if (i == tape->steady - 1)
            g_string_append(text, "     later runs begin here: what is above is kept\n");
    }
    append_ends(text, tape);
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (t->kind == MOJI_PARAMETER) {
            parameters++;
            numbers += moji_tensor_count(t);
        }
    }
    gsize bytes = (gsize)numbers * moji_type_bytes(tape->compute);
    g_string_append_printf(text, "%d records\nparameters: %d with %" G_GINT64_FORMAT " numbers, ",
                           moji_tape_length(tape), parameters, numbers);
    g_string_append_printf(text, "%" G_GSIZE_FORMAT " bytes (%.1f MiB) in %s\n", bytes, bytes / MIB,
                           moji_type_name(tape->compute));
    if (tape->planned) {
        g_string_append_printf(text, "activations: %" G_GSIZE_FORMAT " bytes (%.2f MiB) planned, ",
                               tape->block_bytes, tape->block_bytes / MIB);
        g_string_append_printf(text, "%" G_GSIZE_FORMAT " bytes (%.2f MiB) without reuse\n",
                               tape->unplanned_bytes, tape->unplanned_bytes / MIB);
    }
    return g_string_free(text, FALSE);
}
