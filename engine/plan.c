/* plan.c: when every tensor lives, and where in the tape's one block.
 *
 * The surprising rule: planning rewrites the tape. An add disappears into the convolution or linear
 * layer before it, what follows from steady inputs alone moves to the front, and an elementwise op
 * may get its input's memory for its output.
 *
 * The packing is greedy (Pisarchyk and Lee 2020, arXiv:2001.03288): the largest slot first, or the
 * one that lives longest, whichever needs less in all, each into the tightest gap between the slots
 * already placed that live at the same time. */
#include "tape_private.h"
#include <string.h>

#define ALIGNMENT 64 /* a cache line, and what the backends' vector loads like best */

/* Memory shared by a tensor, its views, and the outputs written in place over it; or by outputs
 * that lie one after another. */
typedef struct {
    int first, last; /* records; an input lives from -1, before the first */
    gsize bytes, offset;
} Slot;

gboolean moji_op_in_place(MojiOp op)
{
    return op == MOJI_OP_SILU || op == MOJI_OP_GELU || op == MOJI_OP_QUICK_GELU ||
           op == MOJI_OP_RELU || op == MOJI_OP_SCALE || op == MOJI_OP_ADD || op == MOJI_OP_MIX;
}

static MojiTensor *base_of(MojiTape *tape, guint id)
{
    return moji_tensor_base(tape->tensors->pdata[id]);
}

static gboolean same_shape(const MojiTensor *a, const MojiTensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof *a->dim) == 0;
}

/* A view that is wanted keeps the memory it looks at. */
static void mark_outputs(MojiTape *tape)
{
    for (guint id = 0; id < tape->tensors->len; id++)
        if (moji_tape_tensor(tape, id)->output)
            base_of(tape, id)->output = TRUE;
}

/* ---- folding adds ---- */

/* Who writes and how many read each tensor's memory, by id of the base. */
typedef struct {
    int *writer;  /* record, -1 for inputs */
    int *readers; /* input slots of records; a tensor read twice by one record counts twice */
} Uses;

static Uses count_uses(MojiTape *tape)
{
    Uses u = {g_new(int, tape->tensors->len), g_new0(int, tape->tensors->len)};
    for (guint i = 0; i < tape->tensors->len; i++)
        u.writer[i] = -1;
    for (int i = 0; i < moji_tape_length(tape); i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        u.writer[r->out->id] = i;
        for (int k = 0; k < MOJI_MAX_INPUTS; k++)
            if (r->in[k])
                u.readers[moji_tensor_base(r->in[k])->id]++;
    }
    return u;
}

/* The record that can take the other operand of an add as its residual, or -1: it writes `sum`
 * itself (not a view of it), only the add reads that, and the residual is there before it runs. */
static int fold_into(MojiTape *tape, const Uses *u, MojiTensor *sum, MojiTensor *residual)
{
    int i = sum->view_of ? -1 : u->writer[sum->id];
    if (i < 0 || u->readers[sum->id] != 1 || sum->output || !same_shape(sum, residual) ||
        residual->kind == MOJI_PARAMETER)
        return -1;
    MojiRecord *r = moji_tape_record(tape, i);
    if ((r->op != MOJI_OP_CONV2D && r->op != MOJI_OP_LINEAR) || r->in[3])
        return -1;
    return u->writer[moji_tensor_base(residual)->id] < i ? i : -1;
}

static void fold_adds(MojiTape *tape)
{
    Uses u = count_uses(tape);
    for (guint i = 0; i < tape->records->len; i++) {
        MojiRecord *add = tape->records->pdata[i];
        if (add->op != MOJI_OP_ADD)
            continue;
        MojiTensor *residual = add->in[1];
        int into = fold_into(tape, &u, add->in[0], add->in[1]);
        if (into < 0) {
            into = fold_into(tape, &u, add->in[1], add->in[0]);
            residual = add->in[0];
        }
        if (into < 0)
            continue;
        MojiRecord *r = moji_tape_record(tape, into);
        r->in[3] = residual;
        r->out = add->out; /* the caller holds the add's tensor; the intermediate is gone */
        u.writer[r->out->id] = into;
        add->op = MOJI_OP_COUNT; /* removed below: until then u's indices hold */
    }
    for (guint i = tape->records->len; i-- > 0;)
        if (moji_tape_record(tape, i)->op == MOJI_OP_COUNT)
            g_ptr_array_remove_index(tape->records, i);
    g_free(u.writer);
    g_free(u.readers);
}

/* ---- what is steady ---- */

static gboolean is_steady(const MojiRecord *r)
{
    gboolean any = FALSE;
    for (int k = 0; k < MOJI_MAX_INPUTS; k++) {
        if (!r->in[k] || r->in[k]->kind == MOJI_PARAMETER)
            continue;
        if (!moji_tensor_base(r->in[k])->steady)
            return FALSE;
        any = TRUE;
    }
    return any;
}

/* Steady records first, each kind in its order. */
static void move_steady(MojiTape *tape)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    guint n = 0;
    for (guint i = 0; i < tape->records->len; i++) {
        MojiRecord *r = tape->records->pdata[i];
        r->out->steady = is_steady(r);
        if (r->out->steady)
            tape->records->pdata[n++] = r;
        else
            g_ptr_array_add(rest, r);
    }
    tape->steady = n;
    for (guint i = 0; i < rest->len; i++)
        tape->records->pdata[n + i] = rest->pdata[i];
}

/* Steady tensors that later runs read, or that the caller may read after them. */
static void mark_kept(MojiTape *tape)
{
    for (int i = 0; i < moji_tape_length(tape); i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        r->out->kept |= r->out->steady && r->out->output;
        if (r->op == MOJI_OP_UPSAMPLE && i == tape->steady - 1)
            moji_tensor_base(r->in[0])->kept = TRUE; /* find_lifetimes tells who may read it */
        for (int k = 0; i >= tape->steady && k < MOJI_MAX_INPUTS; k++)
            if (r->in[k] && moji_tensor_base(r->in[k])->steady)
                moji_tensor_base(r->in[k])->kept = TRUE;
    }
}

/* ---- lifetimes ---- */

/* Sets first and last of every base tensor that has memory. An activation that nothing reads lives
 * while it is written; one that nothing writes any more (folded) has first -1 and no memory. */
static void find_lifetimes(MojiTape *tape)
{
    int end = moji_tape_length(tape);
    for (int i = 0; i < end; i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        g_assert(!r->out->view_of && r->out->first < 0);
        r->out->first = r->out->last = i;
        for (int k = 0; k < MOJI_MAX_INPUTS; k++)
            if (r->in[k] && r->in[k]->kind != MOJI_PARAMETER)
                moji_tensor_base(r->in[k])->last = MAX(moji_tensor_base(r->in[k])->last, i);
        /* a convolution of an enlarged image may be computed from the small one */
        if (r->op == MOJI_OP_UPSAMPLE)
            moji_tensor_base(r->in[0])->last = MIN(i + 1, end - 1);
    }
    for (guint id = 0; id < tape->tensors->len; id++) {
        MojiTensor *t = tape->tensors->pdata[id];
        if ((t->output || t->kept) && !t->view_of)
            t->last = end - 1;
    }
}

static gboolean has_memory(const MojiTensor *t)
{
    return !t->view_of && (t->kind == MOJI_INPUT || (t->kind == MOJI_ACTIVATION && t->first >= 0));
}

static gsize aligned(gsize bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- slots ---- */

/* The input of record i whose memory its output may take: read there for the last time, of the same
 * size and type, and not wanted afterwards. An add's operands change places if only b will do. */
static MojiTensor *overwritten(MojiRecord *r, int i)
{
    if (!moji_op_in_place(r->op))
        return NULL;
    for (int k = 0; k < (r->op == MOJI_OP_ADD ? 2 : 1); k++) {
        MojiTensor *base = moji_tensor_base(r->in[k]);
        if (base->kind == MOJI_PARAMETER || base->output || base->kept || base->last != i ||
            base->type != r->out->type || !same_shape(r->in[k], r->out))
            continue;
        MojiTensor *a = r->in[0];
        r->in[0] = r->in[k];
        r->in[k] = a;
        return base;
    }
    return NULL;
}

gboolean moji_records_alike(const MojiRecord *a, const MojiRecord *b)
{
    return a->op == MOJI_OP_LINEAR && b->op == MOJI_OP_LINEAR &&
           moji_tensor_base(a->in[0]) == moji_tensor_base(b->in[0]) &&
           same_shape(a->in[1], b->in[1]) && !a->in[2] == !b->in[2] && !a->in[3] && !b->in[3] &&
           a->out->type == b->out->type && a->out->last == b->out->last &&
           a->out->kept == b->out->kept;
}

/* Records from i on that are alike and get one slot: one after another they need no more memory
 * than apart, since all have been written before any can be let go. */
static int count_alike(MojiTape *tape, int i)
{
    int n = 1;
    while (i + n < moji_tape_length(tape) &&
           moji_records_alike(moji_tape_record(tape, i), moji_tape_record(tape, i + n)))
        n++;
    return n;
}

/* Where a base tensor is: how far into which slot. */
typedef struct {
    int slot;
    gsize at;
} Place;

/* One slot for each chain of in-place ops, and for the outputs of records that are alike; place[id]
 * for every base tensor with memory. */
static GArray *make_slots(MojiTape *tape, Place *place)
{
    GArray *slots = g_array_new(FALSE, FALSE, sizeof(Slot));
    for (guint id = 0; id < tape->tensors->len; id++) {
        MojiTensor *t = tape->tensors->pdata[id];
        if (t->view_of || t->kind != MOJI_INPUT)
            continue;
        Slot s = {.first = -1, .last = t->last, .bytes = aligned(moji_tensor_bytes(t))};
        place[id] = (Place){slots->len, 0};
        g_array_append_val(slots, s);
    }
    for (int i = 0, n; i < moji_tape_length(tape); i += n) {
        MojiRecord *r = moji_tape_record(tape, i);
        MojiTensor *out = r->out, *under = overwritten(r, i);
        gsize bytes = aligned(moji_tensor_bytes(out));
        n = count_alike(tape, i);
        if (under) {
            Slot *shared = &g_array_index(slots, Slot, place[under->id].slot);
            place[out->id] = place[under->id];
            shared->first = out->kept ? -1 : shared->first;
            shared->last = out->last;
            continue;
        }
        /* what is kept must outlive what is written before the next run's first record */
        Slot s = {.first = out->kept ? -1 : i, .last = out->last, .bytes = n * bytes};
        for (int k = 0; k < n; k++)
            place[moji_tape_record(tape, i + k)->out->id] = (Place){slots->len, k * bytes};
        g_array_append_val(slots, s);
    }
    return slots;
}

/* ---- packing ---- */

static gint by_size(gconstpointer a, gconstpointer b)
{
    const Slot *x = *(Slot *const *)a, *y = *(Slot *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->first - y->first;
}

static gint by_length(gconstpointer a, gconstpointer b)
{
    const Slot *x = *(Slot *const *)a, *y = *(Slot *const *)b;
    int more = (y->last - y->first) - (x->last - x->first);
    return more ? more : by_size(a, b);
}

static gint by_offset(gconstpointer a, gconstpointer b)
{
    const Slot *x = *(Slot *const *)a, *y = *(Slot *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The tightest gap that holds s among `busy`, the slots that live at the same time. */
static gsize find_offset(GPtrArray *busy, const Slot *s)
{
    g_ptr_array_sort(busy, by_offset);
    gsize end = 0, best = G_MAXSIZE, best_gap = G_MAXSIZE;
    for (guint i = 0; i < busy->len; i++) {
        const Slot *b = busy->pdata[i];
        if (b->offset > end && b->offset - end >= s->bytes && b->offset - end < best_gap) {
            best_gap = b->offset - end;
            best = end;
        }
        end = MAX(end, b->offset + b->bytes);
    }
    return best == G_MAXSIZE ? end : best;
}

/* Places all slots in the given order; returns the size of the block. */
static gsize pack(GArray *slots, GCompareFunc order)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_new(), busy = g_ptr_array_new();
    for (guint i = 0; i < slots->len; i++)
        g_ptr_array_add(sorted, &g_array_index(slots, Slot, i));
    g_ptr_array_sort(sorted, order);
    gsize size = 0;
    for (guint i = 0; i < sorted->len; i++) {
        Slot *s = sorted->pdata[i];
        g_ptr_array_set_size(busy, 0);
        for (guint j = 0; j < i; j++) {
            Slot *placed = sorted->pdata[j];
            if (placed->first <= s->last && s->first <= placed->last)
                g_ptr_array_add(busy, placed);
        }
        s->offset = find_offset(busy, s);
        size = MAX(size, s->offset + s->bytes);
    }
    return size;
}

void moji_tape_plan(MojiTape *tape)
{
    g_assert(!tape->planned && tape->scope_lengths->len == 0);
    mark_outputs(tape);
    fold_adds(tape);
    move_steady(tape);
    mark_kept(tape);
    find_lifetimes(tape);
    g_autofree Place *place = g_new(Place, tape->tensors->len);
    g_autoptr(GArray) slots = make_slots(tape, place);

    gsize length = pack(slots, by_length), size = pack(slots, by_size);
    if (length < size)
        size = pack(slots, by_length);
    tape->block_bytes = size;
    tape->unplanned_bytes = 0;
    for (guint id = 0; id < tape->tensors->len; id++) {
        MojiTensor *t = tape->tensors->pdata[id];
        if (!has_memory(t))
            continue;
        t->offset = g_array_index(slots, Slot, place[id].slot).offset + place[id].at;
        tape->unplanned_bytes += aligned(moji_tensor_bytes(t));
    }
    for (guint id = 0; id < tape->tensors->len; id++) {
        MojiTensor *t = tape->tensors->pdata[id], *base = base_of(tape, id);
        t->offset = base->offset;
        t->first = base->first;
        t->last = base->last;
    }
    tape->planned = TRUE;
}

gsize moji_tape_block_bytes(const MojiTape *tape)
{
    g_assert(tape->planned);
    return tape->block_bytes;
}

gsize moji_tape_unplanned_bytes(const MojiTape *tape)
{
    g_assert(tape->planned);
    return tape->unplanned_bytes;
}
