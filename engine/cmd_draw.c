/* cmd_draw.c: `moji draw`, and what other commands that draw have in common with it. Files go to
 * standard output by name, everything else to standard error: progress on a terminal, then the
 * seed, the times and the memory. */
#include "command.h"
#include "draw.h"
#include "tape.h"
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define UNSET G_MININT /* an option that was not given: 0 is something a user may write */
#define USUAL_AMOUNT 0.2

typedef struct {
    char *memory, *output, *negative, *background, *style, *sampler, *model, *vae, *backend, *type,
        *dump;
    char *spacing, *sigmas, *rng;
    char **loras;
    gint64 seed, variation_seed;
    guint64 memory_bytes;
    int steps, size, count, threads, clip_skip;
    int variations;
    double guidance, amount;
    gboolean transparent;
} Options;

static void options_clear(Options *o)
{
    char *owned[] = {o->memory,  o->output,  o->negative, o->background, o->style,
                     o->sampler, o->model,   o->vae,      o->backend,    o->type,
                     o->dump,    o->spacing, o->sigmas,   o->rng};
    for (gsize i = 0; i < G_N_ELEMENTS(owned); i++)
        g_free(owned[i]);
    g_strfreev(o->loras);
}

/* ---- names of files ---- */

/* Letters and digits of the prompt, anything else a single hyphen; at most 40 characters. */
static char *slug(const char *prompt)
{
    GString *out = g_string_new(NULL);
    int letters = 0;
    for (const char *p = prompt; *p && letters < 40; p = g_utf8_next_char(p)) {
        gunichar c = g_unichar_tolower(g_utf8_get_char(p));
        if (g_unichar_isalnum(c)) {
            g_string_append_unichar(out, c);
            letters++;
        } else if (out->len && out->str[out->len - 1] != '-') {
            g_string_append_c(out, '-');
        }
    }
    while (out->len && out->str[out->len - 1] == '-')
        g_string_truncate(out, out->len - 1);
    return g_string_free(out, FALSE);
}

/* FILE.png -> FILE-2.png */
static char *numbered(const char *path, int number)
{
    const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
    gsize stem = dot && (!slash || dot > slash) ? (gsize)(dot - path) : strlen(path);
    return g_strdup_printf("%.*s-%d%s", (int)stem, path, number, path + stem);
}

/* Without -o nothing is ever overwritten: the first number that is free. */
static char *free_name(const char *prompt, int *number)
{
    g_autofree char *words = slug(prompt);
    for (;; ++*number) {
        char *path = g_strdup_printf("emoji-%s%s%d.png", words, *words ? "-" : "", *number);
        if (!g_file_test(path, G_FILE_TEST_EXISTS))
            return path;
        g_free(path);
    }
}

/* Before a long drawing rather than after it. */
static gboolean check_output(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    if (g_file_test(path, G_FILE_TEST_IS_DIR))
        moji_error_file(error, path, "is a folder, expected the name of a file");
    else if (!g_file_test(folder, G_FILE_TEST_IS_DIR))
        moji_error_file(error, folder, "there is no such folder to write to");
    else if (access(folder, W_OK))
        moji_error_file(error, folder, "the folder cannot be written to");
    else
        return TRUE;
    return FALSE;
}

/* ---- what is said on the way ---- */

static void clear_line(void)
{
    fputs("\r\033[K", stderr);
}

static void on_progress(const MojiProgress *p, gpointer unused)
{
    enum { WIDTH = 24 };
    (void)unused;
    int done = p->steps ? p->step * WIDTH / p->steps : 0;
    clear_line();
    if (p->images > 1)
        fprintf(stderr, "%d of %d  ", p->image + 1, p->images);
    if (p->phase != MOJI_PHASE_STEP) {
        fputs(moji_phase_name(p->phase), stderr);
        return;
    }
    fputc('[', stderr);
    for (int i = 0; i < WIDTH; i++)
        fputc(i < done ? '#' : '.', stderr);
    fprintf(stderr, "] step %d of %d", p->step, p->steps);
}

static void print_warning(JsonObject *recipe)
{
    if (json_object_has_member(recipe, "warning"))
        fprintf(stderr, "moji: warning: %s\n", json_object_get_string_member(recipe, "warning"));
}

static void print_loras(JsonArray *loras)
{
    for (guint i = 0; i < json_array_get_length(loras); i++) {
        JsonObject *l = json_array_get_object_element(loras, i);
        double unet = json_object_get_double_member(l, "unet");
        double text = json_object_get_double_member(l, "text");
        fprintf(stderr, "lora %s: %d of %d tensors applied, ",
                json_object_get_string_member(l, "name"),
                (int)json_object_get_int_member(l, "applied"),
                (int)json_object_get_int_member(l, "tensors"));
        fprintf(stderr,
                unet == text ? "weight %g\n" : "weight %g in the U-Net, %g in the text encoder\n",
                unet, text);
    }
}

static void print_recipe(const char *text, const char *path)
{
    g_autoptr(JsonNode) root = json_from_string(text, NULL);
    JsonObject *r = json_node_get_object(root);
    print_warning(r);
    if (json_object_has_member(r, "note"))
        fprintf(stderr, "moji: %s\n", json_object_get_string_member(r, "note"));
    if (json_object_has_member(r, "loras"))
        print_loras(json_object_get_array_member(r, "loras"));
    fprintf(
        stderr,
        "%s: seed %" G_GINT64_FORMAT ", %d px, %d steps of %s, guidance %g, style %s, "
        "background %s, %s\n",
        path, json_object_get_int_member(r, "seed"), (int)json_object_get_int_member(r, "size"),
        (int)json_object_get_int_member(r, "steps"), json_object_get_string_member(r, "sampler"),
        json_object_get_double_member(r, "guidance"), json_object_get_string_member(r, "style"),
        json_object_get_string_member(r, "background"), json_object_get_string_member(r, "type"));
}

static void print_times(const MojiTimes *t)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    fprintf(stderr,
            "%.2f s: loading %.2f, text %.2f, %d calls of the U-Net %.2f, decoding %.2f, "
            "cut-out %.2f; peak memory %ld MiB\n",
            t->total, t->load, t->text, t->unet_calls, t->unet, t->vae, t->cutout,
            usage.ru_maxrss / 1024);
}

/* ---- the command ---- */

static int write_images(GPtrArray *images, const Options *o, const char *prompt)
{
    int number = 1;
    for (guint i = 0; i < images->len; i++) {
        GError *error = NULL;
        const MojiImage *image = images->pdata[i];
        g_autofree char *path = !o->output         ? free_name(prompt, &number)
                                : images->len == 1 ? g_strdup(o->output)
                                                   : numbered(o->output, (int)i + 1);
        if (!moji_image_write_png(image, path, &error))
            return moji_command_fail(error);
        print_recipe(image->recipe, path);
        puts(path);
    }
    return MOJI_EXIT_OK;
}

static int draw(const Options *o, const MojiRequest *request)
{
    GError *error = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    moji_command_cancel_on_signal(cancel);
    MojiEngine *engine = moji_engine_new(o->backend ? o->backend : "auto", o->threads, &error);
    if (!engine)
        return moji_command_fail(error);
    gboolean terminal = isatty(2);
    if (moji_engine_note(engine))
        fprintf(stderr, "moji: %s; drawing on the processor\n", moji_engine_note(engine));
    moji_engine_set_type(engine, g_strcmp0(o->type, "auto") ? o->type : NULL);
    moji_engine_set_dump(engine, o->dump);
    moji_engine_set_memory(engine, o->memory_bytes);
    GPtrArray *images =
        moji_engine_draw(engine, request, terminal ? on_progress : NULL, NULL, cancel, &error);
    if (terminal)
        clear_line();
    int code = images ? write_images(images, o, request->prompt) : moji_command_fail(error);
    if (images) {
        print_times(moji_engine_times(engine));
        g_ptr_array_unref(images);
    }
    moji_engine_free(engine);
    return code;
}

/* A number that was given must mean something: 0 stands for "not given" inside the engine only. */
static gboolean check_given(Options *o)
{
    const struct {
        const char *name;
        int value, min;
    } numbers[] = {{"steps", o->steps, 1},         {"size", o->size, 1},
                   {"count", o->count, 1},         {"variations", o->variations, 1},
                   {"clip-skip", o->clip_skip, 1}, {"threads", o->threads, 0}};
    for (gsize i = 0; i < G_N_ELEMENTS(numbers); i++)
        if (numbers[i].value != UNSET && numbers[i].value < numbers[i].min) {
            moji_command_misuse("--%s %d: expected %d or more", numbers[i].name, numbers[i].value,
                                numbers[i].min);
            return FALSE;
        }
    if (o->guidance != UNSET && !(o->guidance >= 0)) {
        moji_command_misuse("--guidance %g: expected 0 or more", o->guidance);
        return FALSE;
    }
    if (o->variations != UNSET && o->count != UNSET) {
        moji_command_misuse("--count and --variations: expected one of them");
        return FALSE;
    }
    if (o->memory && !moji_command_bytes("--memory", o->memory, &o->memory_bytes))
        return FALSE;
    MojiType type;
    if (o->type && strcmp(o->type, "auto") && !moji_type_parse(o->type, &type)) {
        moji_command_misuse("--type \"%s\": expected auto, f32, bf16 or f16", o->type);
        return FALSE;
    }
    return TRUE;
}

static int run(Options *o, const MojiDrawCommand *c, char **words)
{
    GError *error = NULL;
    if (!check_given(o))
        return MOJI_EXIT_USAGE;
    g_autoptr(MojiRequest) r = moji_request_new();
    r->negative = g_strdup(o->negative);
    r->style = g_strdup(o->style);
    r->background = g_strdup(o->background);
    r->sampler = g_strdup(o->sampler);
    r->spacing = g_strdup(o->spacing);
    r->sigmas = g_strdup(o->sigmas);
    r->rng = g_strdup(o->rng);
    r->clip_skip = o->clip_skip == UNSET ? 0 : o->clip_skip;
    r->model = g_strdup(o->model);
    r->vae = g_strdup(o->vae);
    r->loras = g_strdupv(o->loras);
    r->seed = o->seed;
    r->steps = o->steps == UNSET ? 0 : o->steps;
    r->size = o->size == UNSET ? 0 : o->size;
    r->count = o->variations != UNSET ? o->variations : o->count == UNSET ? 0 : o->count;
    r->amount = o->amount != UNSET ? o->amount : o->variations != UNSET ? USUAL_AMOUNT : 0;
    r->variation_seed = o->variation_seed;
    r->guidance = o->guidance == UNSET ? -1 : o->guidance;
    r->transparent = o->transparent;
    o->threads = MAX(o->threads, 0);
    if (!c->complete(r, words, c->user_data, &error) || !moji_request_check(r, &error) ||
        !check_output(o->output ? o->output : "./x.png", &error))
        return moji_command_fail(error);
    return draw(o, r);
}

int moji_command_draw(const MojiDrawCommand *c, int argc, char **argv)
{
    Options o = {.seed = -1,
                 .variation_seed = -1,
                 .variations = UNSET,
                 .amount = UNSET,
                 .steps = UNSET,
                 .size = UNSET,
                 .count = UNSET,
                 .threads = UNSET,
                 .clip_skip = UNSET,
                 .guidance = UNSET};
    /* Words are taken as "file names", that is as bytes: a prompt in Korean must also work where
     * the locale is C. moji_request_check sees to it that they are UTF-8. */
    const GOptionEntry entries[] = {
        {"output", 'o', 0, G_OPTION_ARG_FILENAME, &o.output,
         "Where to write (emoji-PROMPT-1.png, or the next free number)", "FILE.png"},
        {"negative", 0, 0, G_OPTION_ARG_FILENAME, &o.negative, "What not to draw", "T"},
        {"seed", 0, 0, G_OPTION_ARG_INT64, &o.seed,
         "0 or more; the same seed draws the same picture (random)", "N"},
        {"steps", 0, 0, G_OPTION_ARG_INT, &o.steps, "1 to 1000 (the model's)", "N"},
        {"guidance", 0, 0, G_OPTION_ARG_DOUBLE, &o.guidance,
         "How closely to follow the prompt, up to 100; 1: off, twice as fast (the model's)", "X"},
        {"sampler", 0, 0, G_OPTION_ARG_FILENAME, &o.sampler,
         "pndm, ddim, euler, euler-a, heun, dpm++2m, dpm++2m-karras, dpm++2m-sde, dpm++sde, "
         "unipc, lcm or tcd (the model's)",
         "NAME"},
        {"spacing", 0, 0, G_OPTION_ARG_FILENAME, &o.spacing,
         "Of the timesteps: leading, linspace, trailing or sgm_uniform (the model's)", "NAME"},
        {"sigmas", 0, 0, G_OPTION_ARG_FILENAME, &o.sigmas,
         "plain, karras or exponential, for euler, heun, dpm++ and unipc (the model's)", "NAME"},
        {"rng", 0, 0, G_OPTION_ARG_FILENAME, &o.rng,
         "cpu, or cuda for the noise that a seed has in tools that draw it on a GPU (cpu)", "NAME"},
        {"clip-skip", 0, 0, G_OPTION_ARG_INT, &o.clip_skip,
         "2: leave out the text encoder's last layer, 3: the last two (1: none)", "N"},
        {"size", 0, 0, G_OPTION_ARG_INT, &o.size, "Pixels on a side (the model's)", "N"},
        {"count", 0, 0, G_OPTION_ARG_INT, &o.count,
         "So many pictures, seeds N, N+1, ...; FILE-1.png, FILE-2.png, ... (1)", "N"},
        {"variations", 0, 0, G_OPTION_ARG_INT, &o.variations,
         "So many pictures that resemble that of the seed; named as with --count", "N"},
        {"amount", 0, 0, G_OPTION_ARG_DOUBLE, &o.amount,
         "How far they are from it, 0 to 1, which is another seed's (0.2)", "X"},
        {"variation-seed", 0, 0, G_OPTION_ARG_INT64, &o.variation_seed,
         "The first one's other seed (the seed's next)", "N"},
        {"background", 0, 0, G_OPTION_ARG_FILENAME, &o.background,
         "A word of the model's (moji info lists them), #rrggbb or none", "COLOUR"},
        {"style", 0, 0, G_OPTION_ARG_FILENAME, &o.style, "A style word of the model's, or none",
         "WORD"},
        {"lora", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o.loras,
         "A LoRA and its weight: NAME:0.8, FILE:0.8 or FILE:unet=0.8,text=0.5; may be repeated. "
         "moji styles lists the names",
         "NAME"},
        {"transparent", 0, 0, G_OPTION_ARG_NONE, &o.transparent,
         "Cut the flat background out; kept, with a warning, if it is not flat", NULL},
        {"model", 0, 0, G_OPTION_ARG_FILENAME, &o.model,
         "Model: a folder in diffusers' layout, a .safetensors or .ckpt file, or the name of one\n"
         "that moji fetch brought (the bundled one)",
         "MODEL"},
        {"vae", 0, 0, G_OPTION_ARG_FILENAME, &o.vae,
         "Another VAE: a file, a folder, the name of a model, or none (the model's; where a\n"
         "picture of the same model is redrawn, that one's)",
         "VAE"},
        {"backend", 0, 0, G_OPTION_ARG_FILENAME, &o.backend, "auto, cpu or cuda (auto)", "NAME"},
        {"type", 0, 0, G_OPTION_ARG_FILENAME, &o.type,
         "auto, f32, bf16 or f16 (auto: what the backend is fastest at)", "T"},
        {"threads", 0, 0, G_OPTION_ARG_INT, &o.threads, "Threads (one a core)", "N"},
        {"memory", 0, 0, G_OPTION_ARG_FILENAME, &o.memory,
         "How much to use at most, as 3G (what there is): with less than everything needs, fewer "
         "pictures are drawn at once, one network is held at a time, and pictures are decoded in "
         "tiles",
         "SIZE"},
        {"dump", 0, 0, G_OPTION_ARG_FILENAME, &o.dump,
         "Write ids, embeddings, noise, latents and pixels as .npy files", "DIR"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    int code = MOJI_EXIT_USAGE;
    GArray *all = g_array_new(TRUE, FALSE, sizeof *entries);
    for (const GOptionEntry *own = c->entries; own && own->long_name; own++)
        g_array_append_vals(all, own, 1);
    g_array_append_vals(all, entries, G_N_ELEMENTS(entries) - 1);
    if (moji_command_parse(
            c->usage,
            "In prompts (x) is drawn stronger, (x:1.3) 1.3 times as strong, [x] weaker; \\( is a\n"
            "bracket; BREAK begins a new part; the name of a file in\n"
            "~/.local/share/moji/embeddings stands for what that file holds.\n\n"
            "The name of each file is printed on standard output; seed, times and\n"
            "peak memory on standard error. Ctrl-C cancels, and writes nothing.\n"
            "Exit codes: 0 drawn, 1 other, 2 arguments, 3 file, 4 memory, "
            "5 cancelled.",
            (GOptionEntry *)all->data, argc, argv, &words)) {
        guint n = g_strv_length(words);
        if (n >= c->least && n <= c->most)
            code = run(&o, c, words);
        else
            moji_command_misuse("%s", c->needs);
    }
    g_array_unref(all);
    options_clear(&o);
    return code;
}

static gboolean complete(MojiRequest *r, char **words, gpointer unused, GError **error)
{
    (void)unused;
    (void)error;
    r->prompt = g_strdup(words[0]);
    return TRUE;
}

int moji_cmd_draw(int argc, char **argv)
{
    static const MojiDrawCommand draw = {
        .usage = "PROMPT",
        .needs = "draw needs a prompt, its words in quotes; see moji draw --help",
        .least = 1,
        .most = 1,
        .complete = complete};
    return moji_command_draw(&draw, argc, argv);
}
