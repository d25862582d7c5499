/* order.c: see order.h. */
#include "order.h"
#include "json.h"
#include "korean.h"
#include "recipe.h"
#include "stage.h"
#include "wording.h"
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>

static gboolean refuse(GError **error, const char *what, const char *word, const char *choices)
{
    if (*choices)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%s: this model does not know \"%s\"; choose one of: %s", what, word, choices);
    else
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%s: \"%s\" was asked for and this model "
                    "has none to choose from",
                    what, word);
    return FALSE;
}

static gboolean same_word(const char *a, const char *b)
{
    return !g_ascii_strcasecmp(a, b);
}

static gboolean choose_style(MojiOrder *o, const char *asked, const MojiCard *card, GError **error)
{
    if (!asked || !*asked) {
        o->style = g_strdup(card->default_style);
        return TRUE;
    }
    if (same_word(asked, MOJI_NONE))
        return TRUE;
    for (char **s = card->styles; *s; s++)
        if (same_word(asked, *s)) {
            o->style = g_strdup(*s);
            return TRUE;
        }
    g_autofree char *choices = g_strjoinv(", ", card->styles);
    return refuse(error, "style", asked, choices);
}

static gboolean read_colour(const char *text, int rgb[3])
{
    char end;
    return text[0] == '#' && strlen(text) == 7 &&
           sscanf(text + 1, "%2x%2x%2x%c", (guint *)rgb, (guint *)rgb + 1, (guint *)rgb + 2,
                  &end) == 3;
}

static const MojiColour *nearest_colour(const MojiCard *card, const int rgb[3], int *distance)
{
    const MojiColour *best = NULL;
    for (int i = 0; i < card->n_backgrounds; i++) {
        const guint8 *c = card->backgrounds[i].rgb;
        int d = 0;
        for (int k = 0; k < 3; k++)
            d += (c[k] - rgb[k]) * (c[k] - rgb[k]);
        if (!best || d < *distance) {
            best = &card->backgrounds[i];
            *distance = d;
        }
    }
    return best;
}

static gboolean choose_background(MojiOrder *o, const char *asked, const MojiCard *card,
                                  GError **error)
{
    int rgb[3], distance = 0;
    if (!asked || !*asked) {
        o->background = g_strdup(card->default_background);
        return TRUE;
    }
    if (same_word(asked, MOJI_NONE))
        return TRUE;
    if (!card->n_backgrounds) {
        if (card->prompt && strstr(card->prompt, "{background}"))
            o->background = g_strdup(asked);
        else
            moji_order_warn(o, "This model takes no background; \"%s\" was left out.", asked);
        return TRUE;
    }
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    for (int i = 0; i < card->n_backgrounds; i++) {
        const MojiColour *c = &card->backgrounds[i];
        if (same_word(asked, c->word) ||
            (c->korean && g_strv_contains((const char *const *)c->korean, asked))) {
            o->background = g_strdup(c->word);
            return TRUE;
        }
        g_ptr_array_add(words, c->word);
    }
    if (read_colour(asked, rgb)) {
        o->background = g_strdup(nearest_colour(card, rgb, &distance)->word);
        if (distance)
            moji_order_warn(o, "Background %s became %s, the nearest colour this model knows.",
                            asked, o->background);
        return TRUE;
    }
    g_ptr_array_add(words, NULL);
    g_autofree char *choices = g_strjoinv(", ", (char **)words->pdata);
    g_autofree char *all = g_strconcat(choices, ", or a colour as #00b140", NULL);
    return refuse(error, "background", asked, all);
}

static gboolean choose_size(MojiOrder *o, int asked, const MojiModel *m, GError **error)
{
    int unit = moji_stage_size_unit(m);
    o->size = asked ? asked : m->card.size;
    if (o->size % unit == 0 || o->image)
        return TRUE;
    int below = o->size / unit * unit;
    g_autofree char *first =
        below >= MOJI_REQUEST_MIN_SIZE ? g_strdup_printf("%d or ", below) : g_strdup("");
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "size: %d px; this model draws multiples of %d px, as %s%d", o->size, unit, first,
                below + unit);
    return FALSE;
}

static gboolean choose_word(const char *setting, const char *asked, const char *const *words,
                            GError **error)
{
    g_autofree char *choices = g_strjoinv(", ", (char **)words);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%s: \"%s\" is unknown; choose one of: %s",
                setting, asked, choices);
    return FALSE;
}

static gboolean choose_sampler(MojiOrder *o, const MojiRequest *r, const char *name,
                               const MojiModel *m, GError **error)
{
    MojiSamplerConfig c = m->sampler;
    if (r->spacing && *r->spacing && !moji_spacing_from_name(r->spacing, &c.spacing))
        return choose_word("spacing", r->spacing, moji_spacing_names(), error);
    if (r->sigmas && *r->sigmas && !moji_sigmas_from_name(r->sigmas, &c.sigmas))
        return choose_word("sigmas", r->sigmas, moji_sigmas_names(), error);
    o->sampler = moji_sampler_new(&c, name, o->steps, error);
    return o->sampler != NULL;
}

static gboolean choose_noise(MojiOrder *o, const char *asked, GError **error)
{
    static const char *const names[] = {"cpu", "cuda", NULL};
    o->cuda = asked && !strcmp(asked, "cuda");
    return !asked || !*asked || g_strv_contains(names, asked) ||
           choose_word("rng", asked, names, error);
}

void moji_order_random(const MojiOrder *o, int index, MojiRandom *random)
{
    guint64 seed = (guint64)o->seed + (o->amount > 0 ? 0 : index);
    (o->cuda ? moji_random_seed_cuda : moji_random_seed)(random, seed);
}

void moji_order_variation(const MojiOrder *o, int index, MojiRandom *random)
{
    guint64 seed = (guint64)o->variation_seed + index;
    (o->cuda ? moji_random_seed_cuda : moji_random_seed)(random, seed);
}

static gboolean choose_clip_skip(MojiOrder *o, int asked, const MojiModel *m, GError **error)
{
    o->clip_skip = MAX(asked, 1);
    if (o->clip_skip <= m->clip.layers)
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "clip_skip: %d; this model's text encoder has %d layers", asked, m->clip.layers);
    return FALSE;
}

/* Korean for a model that reads English; *said is the text itself where nothing need be done. */
static gboolean translate(MojiOrder *o, const char *text, const MojiCard *card, char **said,
                          GError **error)
{
    g_autofree char *unknown = NULL;
    if (card->prompt_ko || !moji_korean_found(text)) {
        *said = g_strdup(text);
        return TRUE;
    }
    *said = moji_korean_translate(text, &unknown, error);
    if (*said && !**said) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "prompt: this model reads English, and the dictionary has none of: %s",
                    unknown);
        return FALSE;
    }
    if (unknown)
        moji_order_warn(o,
                        "This model reads English; these Korean words are not in the dictionary "
                        "and were left out: %s.",
                        unknown);
    return *said != NULL;
}

/* A background that the prompt names is the one to draw and to cut out, unless another was asked
 * for; then that one replaces it. */
static void heed_prompt(MojiOrder *o, const char *asked, const MojiCard *card)
{
    MojiNamedBackground named;
    o->subject = g_strdup(o->said);
    o->frame = card->prompt;
    o->background_words = g_strdup(o->background);
    if (!o->background || !moji_wording_background(card, o->said, &named))
        return;
    gboolean free_choice = !asked || !*asked;
    if (free_choice) {
        g_free(o->background);
        o->background = g_strdup(named.colour->word);
    }
    if (free_choice || !strcmp(o->background, named.colour->word)) {
        gboolean korean = named.korean && card->prompt_ko;
        g_free(o->background_words);
        o->background_words = named.rest ? g_strdup(korean ? named.korean : o->background) : NULL;
        o->frame = korean ? card->prompt_ko : card->prompt;
    } else if (named.rest) {
        moji_order_warn(o, "The background asked for is %s; the prompt's \"%s\" was left out.",
                        o->background, named.words);
    }
    if (named.rest) {
        g_free(o->subject);
        o->subject = g_strdup(named.rest);
    }
    moji_named_background_clear(&named);
}

/* What the request and the prompt's tags name; takes the tags out of the prompt. */
static gboolean open_loras(MojiOrder *o, const MojiRequest *r, GError **error)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(g_free);
    for (char **entry = r->loras; entry && *entry; entry++)
        if (!same_word(*entry, MOJI_NONE)) /* said to a picture that was made with some */
            g_ptr_array_add(entries, g_strdup(*entry));
    o->prompt = moji_styles_take_tags(r->prompt, entries, error);
    if (!o->prompt)
        return FALSE;
    if (strcmp(o->prompt, r->prompt) && !o->prompt[strspn(o->prompt, " ,")]) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "prompt: it names LoRAs and nothing to draw");
        return FALSE;
    }
    if (entries->len > MOJI_REQUEST_MAX_LORAS) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "loras: %u of them; at most %d are taken",
                    entries->len, MOJI_REQUEST_MAX_LORAS);
        return FALSE;
    }
    for (guint i = 0; i < entries->len; i++) {
        MojiStyle *s = moji_style_open(entries->pdata[i], error);
        if (!s)
            return FALSE;
        g_ptr_array_add(o->loras, s);
    }
    return TRUE;
}

/* Steps, guidance and sampler: as asked, else as a LoRA for few steps wants them, else the card's.
 * Returns the sampler to choose. */
static const char *choose_steps(MojiOrder *o, const MojiRequest *r, const MojiCard *card)
{
    const char *asked = r->sampler && *r->sampler ? r->sampler : NULL;
    MojiStyleSteps few = {0};
    const MojiStyle *s = NULL;
    for (guint i = 0; i < o->loras->len && !few.kind; i++) {
        s = o->loras->pdata[i];
        if (s->unet > 0)
            few = moji_style_steps(s->name, moji_lora_metadata(s->lora));
    }
    if (few.kind && !g_strv_contains(moji_sampler_names(), few.sampler))
        few.kind = NULL;
    o->steps = r->steps ? r->steps : few.kind ? few.steps : card->steps;
    o->guidance = r->guidance >= 0 ? r->guidance : few.kind ? few.guidance : card->guidance;
    if (few.kind && (!r->steps || r->guidance < 0 || !asked))
        o->note =
            g_strdup_printf("%s is a %s, so this was drawn with %d steps of %s and guidance %g.",
                            s->name, few.kind, o->steps, asked ? asked : few.sampler, o->guidance);
    return asked ? asked : few.kind ? few.sampler : card->sampler;
}

/* The text for as many letters of the prompt, ending with a whole word where there are several. */
static char *text_of(const MojiOrder *o, glong letters, gsize *used)
{
    const char *end = g_utf8_offset_to_pointer(o->subject, letters);
    const char *space = end;
    while (*end && space > o->subject && !g_ascii_isspace(*space))
        space--;
    if (space > o->subject)
        end = space;
    *used = end - o->subject;
    g_autofree char *subject = g_strndup(o->subject, *used);
    return moji_wording_fill(o->frame, subject, o->style, o->background_words);
}

/* How many chunks too many the text has. An inversion that cannot be read is found out later. */
static int excess(const MojiOrder *o, const MojiModel *m, const char *text)
{
    int lacking = 0;
    moji_chunks_free(moji_prompt_chunks(text, m->tokenizer, o->inversions, &lacking, NULL));
    return lacking;
}

/* Fills in the template. What does not fit is taken from the prompt, not from what the template
 * puts after it: without its background a drawing could not be cut out. */
static void make_text(MojiOrder *o, const MojiModel *m)
{
    glong most = g_utf8_strlen(o->subject, -1), least = 0;
    gsize used;
    o->text = text_of(o, most, &used);
    if (!m->tokenizer || !excess(o, m, o->text))
        return;
    while (most - least > 1) {
        glong middle = (least + most) / 2;
        g_autofree char *text = text_of(o, middle, &used);
        if (!excess(o, m, text))
            least = middle;
        else
            most = middle;
    }
    g_free(o->text);
    o->text = text_of(o, least, &used);
    moji_order_warn(o, "The prompt is too long; this was left out: \"%s\".",
                    o->subject + used + strspn(o->subject + used, " \t\n"));
}

/* What a picture was cut out of, as its recipe has it, or else the model's background, so that what
 * is transparent looks as the model has learned it; white if there is neither. */
static void choose_backdrop(MojiOrder *o, const MojiCard *card)
{
    JsonObject *recipe;
    g_autoptr(JsonParser) parser = moji_recipe_of_picture(o, &recipe);
    g_autofree char *cutout = NULL;
    int rgb[3] = {255, 255, 255};
    if (parser)
        moji_json_string(recipe, "recipe", "cutout", &cutout, NULL);
    if (!cutout || !read_colour(cutout, rgb))
        for (int i = 0; o->background && i < card->n_backgrounds; i++)
            if (same_word(o->background, card->backgrounds[i].word))
                for (int k = 0; k < 3; k++)
                    rgb[k] = card->backgrounds[i].rgb[k];
    for (int k = 0; k < 3; k++)
        o->backdrop[k] = (guint8)rgb[k];
}

static gboolean choose_edit(MojiOrder *o, const MojiRequest *r, const MojiModel *m, GError **error)
{
    if (!o->image)
        return TRUE;
    if (m->vae.in_channels != 3) {
        moji_error_file(error, m->folder, "vae takes %d channels (in_channels), expected 3",
                        m->vae.in_channels);
        return FALSE;
    }
    o->strength = r->strength >= 0 ? r->strength : moji_model_strength(m);
    /* One step at least: that little more than its share is for rounding. */
    o->strength = MIN(1, MAX(o->strength, (1 + 1e-9) / o->steps));
    choose_backdrop(o, &m->card);
    return TRUE;
}

/* A model that lists what it draws knows few words, and makes something or other of the rest. A
 * LoRA or an inversion may have taught it more. */
static void judge_words(MojiOrder *o, const MojiModel *m)
{
    if (!m->tokenizer || !m->card.names || o->loras->len || o->chunks[1]->learnt)
        return;
    g_autofree char *strange = moji_prompt_strange_words(o->subject, m->tokenizer);
    if (strange)
        moji_order_warn(o, "%s was never taught: %s. \"moji info\" lists what it draws.",
                        m->card.name ? m->card.name : "This model", strange);
}

/* Both texts as ids, padded to one length. */
static gboolean make_chunks(MojiOrder *o, const MojiModel *m, GError **error)
{
    int lacking = 0;
    o->chunks[1] = moji_prompt_chunks(o->text, m->tokenizer, o->inversions, NULL, error);
    if (!o->chunks[1])
        return FALSE;
    if (o->guidance <= 1)
        return TRUE;
    o->chunks[0] = moji_prompt_chunks(o->unsaid, m->tokenizer, o->inversions, &lacking, error);
    if (!o->chunks[0])
        return FALSE;
    if (lacking)
        moji_order_warn(o, "The negative prompt is too long; its end was left out.");
    int most = MAX(o->chunks[0]->count, o->chunks[1]->count);
    for (int i = 0; i < 2; i++)
        moji_chunks_pad(o->chunks[i], m->tokenizer, most);
    return TRUE;
}

static void free_style(gpointer style)
{
    moji_style_free(style);
}

MojiOrder *moji_order_new(const MojiRequest *r, const MojiModel *m, GError **error)
{
    MojiOrder *o = g_new0(MojiOrder, 1);
    o->warnings = g_string_new(NULL);
    o->loras = g_ptr_array_new_with_free_func(free_style);
    if (!open_loras(o, r, error)) {
        moji_order_free(o);
        return NULL;
    }
    o->negative = g_strdup(r->negative ? r->negative : "");
    /* Short enough to be read out and typed again. */
    o->seed = r->seed >= 0 ? r->seed : g_random_int_range(0, G_MAXINT32);
    const char *sampler = choose_steps(o, r, &m->card);
    o->count = MAX(r->count, 1);
    o->transparent = r->transparent;
    o->amount = r->amount;
    o->variation_seed = r->variation_seed >= 0 ? r->variation_seed : o->seed + 1;
    o->image = r->image;
    if (!choose_style(o, r->style, &m->card, error) ||
        !choose_background(o, r->background, &m->card, error) ||
        !choose_size(o, r->size, m, error) || !choose_sampler(o, r, sampler, m, error) ||
        !choose_noise(o, r->rng, error) || !choose_clip_skip(o, r->clip_skip, m, error) ||
        !choose_edit(o, r, m, error) || !translate(o, o->prompt, &m->card, &o->said, error) ||
        !translate(o, o->negative, &m->card, &o->unsaid, error)) {
        moji_order_free(o);
        return NULL;
    }
    if (*o->negative && o->guidance <= 1)
        moji_order_warn(o, "A negative prompt needs guidance above 1; it was left out.");
    heed_prompt(o, r->background, &m->card);
    o->inversions = moji_inversions_open(NULL, m->clip.hidden_size);
    make_text(o, m);
    if (m->tokenizer && !make_chunks(o, m, error)) {
        moji_order_free(o);
        return NULL;
    }
    judge_words(o, m);
    moji_recipe_compare(o);
    return o;
}

void moji_order_free(MojiOrder *o)
{
    if (!o)
        return;
    g_free(o->prompt);
    g_free(o->negative);
    g_free(o->said);
    g_free(o->unsaid);
    moji_chunks_free(o->chunks[0]);
    moji_chunks_free(o->chunks[1]);
    moji_inversions_free(o->inversions);
    g_free(o->subject);
    g_free(o->background_words);
    g_free(o->text);
    g_free(o->style);
    g_free(o->background);
    moji_sampler_free(o->sampler);
    g_free(o->note);
    g_ptr_array_unref(o->loras);
    g_string_free(o->warnings, TRUE);
    g_free(o);
}

void moji_order_warn(MojiOrder *o, const char *format, ...)
{
    va_list args;
    if (o->warnings->len)
        g_string_append_c(o->warnings, ' ');
    va_start(args, format);
    g_string_append_vprintf(o->warnings, format, args);
    va_end(args);
}
